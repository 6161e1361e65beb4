--- The operations of a training step, in the order in which a schedule issues them. The phases are
-- those of the engine (nn/transformer.lua), and so are the names: attention, route, dispatch,
-- expert, combine, finish, unshard, reduce, head, optimizer; counts is the gathering of the counts.
-- Every span has a name, a phase (forward, recompute, backward), a micro-batch and a layer.
--
-- Schedules of unshard and reduce:
--   none      when it is needed, waited for at once
--   eager     as soon as there is something to send: the next layer's parameters when a layer
--             begins, gradients when they are complete
--   laer      the next layer's parameters after this layer's tokens have gone out; gradients are
--             held back until the tokens of the next layer's backward have (nn/pipeline.lua)
--   resident  never: experts stay where they are
-- With chunks > 1 the tokens of a layer travel in so many parts, each computed while others travel.

local lib = require 'neap.lib'

local program = {}

program.schedules = { 'eager', 'laer', 'none', 'resident' }

local Program = {}
Program.__index = Program

--- ---- helpers ----------------------------------------------------------------------------------

local function list_of(...)
  local list = {}
  for i = 1, select('#', ...) do
    local op = select(i, ...)
    if op then list[#list + 1] = op end
  end
  return list
end

function Program:span(name)
  return { name = name, phase = self.phase, micro = self.micro, layer = self.layer }
end

function Program:compute(name, seconds, each, ...)
  return self.cluster:compute(self:span(name), seconds, each, list_of(...))
end

--- Part 1 / count of an array.
local function part(array, size, count)
  if not array or count == 1 then return array end
  local out = lib.ffi.new('double[?]', size)
  for i = 0, size - 1 do out[i] = array[i] / count end
  return out
end

--- One exchange of this layer's tokens, cut into chunks. after(chunk): an operation.
function Program:send(name, chunk, after)
  local t, load = self.cluster.topology, self.load
  return self.cluster:exchange(self:span(name), 'tokens', {
    group = self.token_group, after = list_of(after),
    ports = part(load.ports, t.ranks, chunk), uplinks = part(load.uplinks, t.nodes, chunk),
  })
end

--- ---- parameters and gradients -----------------------------------------------------------------

--- Starts to fetch a layer's parameters once an operation has ended, unless they are there.
function Program:prefetch(layer, after)
  local weights = self.weights
  if self.schedule == 'resident' or not weights[layer] or self.fetched[layer] then return end
  self.fetched[layer] = self.cluster:exchange(
    { name = 'unshard', phase = self.phase, micro = self.micro, layer = layer }, 'unshard',
    { group = self.shard_group, ports = weights[layer].ports, uplinks = weights[layer].uplinks,
      after = list_of(after) })
  self.fetched[layer - 2], self.fetched[layer + 2] = nil, nil -- two buffers
end

--- The operation that brings this layer's parameters.
function Program:weights_of(after)
  self:prefetch(self.layer, after)
  return self.fetched[self.layer]
end

--- Sends a layer's gradients to their owners after operations.
function Program:send_gradients(layer, micro, ...)
  local weights, scale = self.weights[layer], self.gradient_scale
  local t = self.cluster.topology
  self.reduced[layer] = self.cluster:exchange(
    { name = 'reduce', phase = 'backward', micro = micro, layer = layer }, 'reduce',
    { group = self.shard_group, ports = part(weights.ports, t.ranks, 1 / scale),
      uplinks = part(weights.uplinks, t.nodes, 1 / scale), after = list_of(...) })
end

function Program:reduce(expert)
  if self.schedule == 'resident' then return end
  if self.schedule == 'laer' then
    self.held = { layer = self.layer, micro = self.micro, expert = expert }
  else
    self:send_gradients(self.layer, self.micro, expert)
  end
end

--- Sends what was held back.
function Program:release(after)
  local held = self.held
  if held then
    self.held = nil
    self:send_gradients(held.layer, held.micro, held.expert, after)
  end
end

--- ---- layers -----------------------------------------------------------------------------------

--- Attention of a rank; with tensor parallelism between a gathering and a scattering of tokens.
function Program:attend(seconds, exchanges)
  if self.tensor == 1 then return self:compute('attention', seconds, nil) end
  local function exchange(after)
    return self.cluster:exchange(self:span 'tensor', 'tokens', { group = self.tensor,
      ports = self.tensor_ports, after = list_of(after) })
  end
  local before = self.last
  for _ = 1, exchanges / 2 do before = exchange(before) end
  local done = self:compute('attention', seconds, nil, before)
  for _ = 1, exchanges / 2 do done = exchange(done) end
  return done
end

--- Experts of all chunks between two exchanges; returns the last operation of each. on_sent(op) is
-- called when the tokens are on their way.
function Program:exchange_and_compute(each, after, on_sent, back)
  local n, sent, expert, returned = self.chunks, {}, nil, nil
  for i = 1, n do sent[i] = self:send('dispatch', n, after) end
  on_sent(sent[n])
  local weights = self.schedule ~= 'resident' and self:weights_of(sent[n]) or nil
  local seconds = part(each, self.cluster.topology.ranks, n)
  local free = self.phase == 'backward' and self.reduced[self.layer + 2] or nil
  local computed = {}
  for i = 1, n do
    expert = self:compute('expert', 0, seconds, sent[i], weights, free)
    computed[i] = expert
  end
  for i = 1, n do
    if back then returned = self:send('combine', n, computed[i]) end
  end
  return expert, returned
end

--- Forward of a layer, also when it is done again before its backward.
function Program:forward_layer(next_layer)
  local again = self.phase == 'recompute'
  if self.schedule == 'eager' then self:prefetch(next_layer, self.last) end
  local attended = self:attend(self.attention, 2)
  local routed = self:compute('route', self.route, nil, attended)
  local counted = self.cluster:exchange(self:span 'counts', 'tokens', { group = self.token_group,
    delay = self.host, after = { routed } })
  local expert, returned = self:exchange_and_compute(self.load.experts, counted, function(sent)
    if self.schedule == 'laer' then self:prefetch(next_layer, sent) end
  end, true)
  self.last = self:compute('finish', again and 0 or self.finish, nil, expert, returned)
end

function Program:backward_layer()
  local layer = self.layer
  if self.recompute then
    self.phase = 'recompute'
    self:forward_layer(layer - 1)
  elseif self.schedule == 'eager' then
    self:prefetch(layer - 1, self.last)
  end
  self.phase = 'backward'
  local begun = self:compute('finish', self.finish_back, nil, self.last)
  local expert, returned = self:exchange_and_compute(self.load.experts_back, begun, function(sent)
    if self.schedule == 'laer' then
      self:prefetch(layer - 1, sent)
      self:release(sent)
    end
  end, true)
  self:reduce(expert)
  local routed = self:compute('route', self.route_back, nil, expert, returned)
  self.last = routed
  self.last = self:attend(self.attention_back, 4)
end

--- ---- steps ------------------------------------------------------------------------------------

function Program:micro_batch(micro, loads, weights)
  self.micro, self.weights, self.fetched = micro, weights, {}
  self.phase, self.layer = 'forward', 0
  if self.schedule ~= 'none' then self:prefetch(0, self.last) end
  for layer = 0, self.layers - 1 do
    self.layer, self.load = layer, loads[layer]
    self:forward_layer(layer + 1)
  end
  self.phase, self.layer = 'backward', nil
  self.last = self:compute('head', self.head, nil, self.last)
  for layer = self.layers - 1, 0, -1 do
    self.layer, self.load = layer, loads[layer]
    self:backward_layer()
  end
  self:release(self.last)
end

--- The dense parameters' gradients, the optimizer, and the gathering of what it changed. What no
-- reduce has sent home is sent here too.
function Program:finish_step()
  self.phase, self.layer, self.micro = 'step', nil, nil
  local after = list_of(self.last, self.reduced[0], self.reduced[1])
  local reduced = self.cluster:exchange(self:span 'dense reduce', 'reduce', {
    ports = self.dense.reduce_ports, uplinks = self.dense.reduce_uplinks, after = after })
  local stepped = self:compute('optimizer', self.optimizer, nil, reduced, unpack(after))
  self.last = self.cluster:exchange(self:span 'dense gather', 'unshard', {
    ports = self.dense.gather_ports, uplinks = self.dense.gather_uplinks, after = { stepped } })
end

--- Fills a cluster (cleared before) with a step. o: schedule, chunks, token_group, shard_group,
-- tensor and tensor_ports, gradient_scale (bytes of a gradient / of a parameter), layers,
-- recompute; seconds: attention, attention_back, route, route_back, finish, finish_back, head,
-- optimizer, host; dense: bytes of the dense parameters' exchanges; micro: a list, for every
-- micro-batch, of loads[layer] = { ports, uplinks, experts, experts_back } and weights[layer] = {
-- ports, uplinks }.
function program.build(cluster, o)
  cluster:clear()
  local self = setmetatable({ cluster = cluster, reduced = {} }, Program)
  for name, value in pairs(o) do self[name] = value end
  for i, micro in ipairs(o.micro) do self:micro_batch(i - 1, micro.loads, micro.weights) end
  self:finish_step()
end

return program

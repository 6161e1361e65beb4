--- The operations of a training step, in the order in which a schedule issues them. The phases are
-- those of the engine (nn/transformer.lua), and so are the names: attention, route, dispatch,
-- expert, combine, finish, unshard, reduce, head, optimizer; counts is the gathering of the counts,
-- host the time in which a rank waits until its host has read them, which counts as work.
-- Every span has a name, a phase (forward, recompute, backward), a micro-batch and a layer.
--
-- Schedules of unshard and reduce:
--   none      when it is needed, waited for at once
--   eager     as soon as there is something to send: the next layer's parameters when a layer
--             begins, gradients when they are complete
--   laer      the next layer's parameters after this layer's tokens have gone out; gradients are
--             held back until the tokens of the next layer's backward have (nn/pipeline.lua)
--   neap      as laer; what the forward has counted and split is kept for its repetition, which
--             then needs no counts and no combine; and the next micro-batch's first layer is
--             fetched under the last layer of a backward
--   resident  experts stay where they are; gradients as in eager
-- With chunks > 1 the tokens of a layer travel in so many parts, each computed while others travel.

local lib = require 'neap.lib'

local program = {}

program.schedules = { 'eager', 'laer', 'neap', 'none', 'resident' }
program.known = {}
for _, name in ipairs(program.schedules) do program.known[name] = true end

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

--- Starts to fetch the next micro-batch's first layer.
function Program:prefetch_ahead(after)
  local following = self.schedule == 'neap' and self.weights_by_micro[self.micro + 2]
  if not following then return end
  local weights, fetched, micro = self.weights, self.fetched, self.micro
  self.weights, self.fetched, self.micro = following.weights, {}, micro + 1
  self:prefetch(0, after)
  self.ahead = self.fetched
  self.weights, self.fetched, self.micro = weights, fetched, micro
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
  if self.accumulate and self.micro < self.last_micro then return end
  if self.late then
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

--- The dense parameters' gradients of a layer, or of all that is not in layers.
function Program:reduce_dense(bytes)
  self.dense_reduced = self.cluster:exchange(self:span 'dense reduce', 'reduce',
    { ports = bytes.reduce_ports, uplinks = bytes.reduce_uplinks, after = { self.last } })
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
  local free = self.phase == 'backward' and self.reduced[self.layer + 2] or nil
  local computed = {}
  for i = 1, n do
    expert = self:compute('expert', 0, each, sent[i], weights, free)
    computed[i] = expert
  end
  for i = 1, n do
    if back then returned = self:send('combine', n, computed[i]) end
  end
  return expert, returned
end

--- The counts of all ranks, on the host.
function Program:count(routed)
  local gathered = self.cluster:exchange(self:span 'counts', 'tokens', { group = self.token_group,
    after = { routed } })
  return self:compute('host', self.host, nil, gathered)
end

--- Forward of a layer, also when it is done again before its backward.
function Program:forward_layer(next_layer)
  local again = self.phase == 'recompute'
  local kept = again and self.schedule == 'neap'
  if self.schedule == 'eager' then self:prefetch(next_layer, self.last) end
  local attended = self:attend(self.attention, 2)
  local routed = self:compute('route', self.route, nil, attended)
  local ready = kept and routed or self:count(routed)
  local expert, returned = self:exchange_and_compute(self.load.experts, ready, function(sent)
    if self.late then self:prefetch(next_layer, sent) end
  end, not kept)
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
    if self.late then
      self:prefetch(layer - 1, sent)
      if layer == 0 then self:prefetch_ahead(sent) end
      self:release(sent)
    end
  end, true)
  self:reduce(expert)
  local routed = self:compute('route', self.route_back, nil, expert, returned)
  self.last = routed
  self.last = self:attend(self.attention_back, 4)
  if self.micro == self.last_micro then self:reduce_dense(self.dense.layer) end
end

--- ---- steps ------------------------------------------------------------------------------------

function Program:micro_batch(micro, loads, weights)
  self.micro, self.weights, self.fetched = micro, weights, self.ahead or {}
  self.ahead = nil
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

--- The last gradients, the optimizer, and the gathering of the dense parameters that it changed.
function Program:finish_step()
  self.phase, self.layer, self.micro = 'step', nil, nil
  self:reduce_dense(self.dense.outer)
  local after = list_of(self.last, self.dense_reduced, self.reduced[0], self.reduced[1])
  self.last = self:compute('optimizer', self.optimizer, nil, unpack(after))
  self.cluster:exchange(self:span 'dense gather', 'unshard', { ports = self.dense.all.gather_ports,
    uplinks = self.dense.all.gather_uplinks, after = { self.last } })
end

--- Fills a cluster (cleared before) with a step. o: schedule, chunks, token_group, shard_group,
-- tensor and tensor_ports, gradient_scale (bytes of a gradient / of a parameter), accumulate
-- (gradients are sent in the last micro-batch only), layers, recompute; seconds: attention,
-- attention_back, route, route_back, finish, finish_back, head, optimizer, host; dense: bytes of
-- the dense parameters' exchanges, of a layer, outer and all; micro: a list, for every
-- micro-batch, of loads[layer] = { ports, uplinks, experts, experts_back (of a chunk) } and of
-- weights[layer] = { ports, uplinks }.
function program.build(cluster, o)
  cluster:clear()
  local self = setmetatable({ cluster = cluster, reduced = {} }, Program)
  for name, value in pairs(o) do self[name] = value end
  self.last_micro, self.weights_by_micro = #o.micro - 1, o.micro
  self.late = o.schedule == 'laer' or o.schedule == 'neap'
  for i, micro in ipairs(o.micro) do self:micro_batch(i - 1, micro.loads, micro.weights) end
  self:finish_step()
end

return program

-- SPDX-License-Identifier: Apache-2.0

--- The operations of a training step on a cluster: the engine's own order of a layer's phases
-- (nn/layer_step.lua), its pipeline of parameters and gradients and its schedules (nn/pipeline.lua,
-- nn/schedule.lua), run on layers whose work is operations (step_ops.lua). So a simulated timeline
-- has the engine's spans in the engine's order. Besides them there are
--   host      a rank waits until its host has read the counts, which counts as work
--   plan      the same until its host has planned on them and split them
--   tensor    exchanges of tensor parallelism
--   dense     exchanges of the dense parameters: gradients are summed ('dense reduce'), parameters
--             gathered ('dense gather')
-- Every span has a name, a phase (forward, recompute, backward, step), a micro-batch and a layer.

local step_ops = require 'neap.simulate.step_ops'
local Pipeline = require 'neap.nn.pipeline'
local layer_step = require 'neap.nn.layer_step'

local step_program = {}

local Program = {}
Program.__index = Program

--- ---- issuing -----------------------------------------------------------------------------------

local function span(self, name, o)
  local phase, layer = self.phase, self.layer
  if o.phase ~= nil then phase = o.phase or nil end
  if o.layer then layer = o.layer end
  return { name = name, phase = phase, micro = self.micro, layer = layer, chunk = o.chunk or nil }
end

--- Every rank computes for seconds, and each[rank] more, after what has been waited for.
function Program:compute(name, seconds, each, o)
  local after = self.waits
  self.waits = {}
  self.last = self.cluster:compute(span(self, name, o or {}), seconds, each, after)
  return self.last
end

--- Starts an exchange. o: as of cluster:exchange, and share (of the bytes), layer, chunk.
function Program:exchange(name, stream, o)
  local t, ports, uplinks = self.cluster.topology, nil, nil
  if self.copied then
    if o.ports then self:compute(name, self:copying(o.ports) * (o.share or 1), nil, o) end
  else
    ports = step_ops.scaled(o.ports, t.ranks, o.share)
    uplinks = step_ops.scaled(o.uplinks, t.nodes, o.share)
  end
  return self.cluster:exchange(span(self, name, o), stream, { group = o.group, peers = o.peers,
    ports = ports, uplinks = uplinks, after = { self.last } })
end

--- Seconds in which ranks copy so many bytes themselves, all at once.
function Program:copying(bytes)
  local t, sum = self.cluster.topology, 0
  for r = 0, t.ranks - 1 do sum = sum + bytes[r] end
  return sum / t.ranks / self.cluster.machine.port
end

--- Computation to come needs an operation. Of a stream's exchanges only the last one matters.
function Program:wait(op)
  local stream = self.cluster.spans[op].stream
  for i, other in ipairs(self.waits) do
    if self.cluster.spans[other].stream == stream then
      self.waits[i] = math.max(op, other)
      return
    end
  end
  self.waits[#self.waits + 1] = op
end

--- The gradients of dense parameters are summed.
function Program:dense_reduce(bytes)
  self.dense_reduced = self:exchange('dense reduce', 'reduce',
    { ports = bytes.reduce_ports, uplinks = bytes.reduce_uplinks })
end

--- The host splits the counts, after a policy that wants them has planned on them; what was split
-- in the forward is not split again. The layout is there from now on.
function Program:plan(_, layer)
  if self.host_seconds > 0 and self.phase == 'forward' then
    self:compute('plan', self.host_seconds)
  end
  self.planned[layer] = true
end

--- ---- steps ------------------------------------------------------------------------------------

function Program:forward()
  self.phase, self.layer = 'forward', nil
  self.planned = {}
  layer_step.begin(self)
  self:compute('embed', self.embed)
  for _ = 1, self.dense_layers do step_ops.dense_layer(self) end
  for layer = 0, self.layers - 1 do layer_step.forward_layer(self, layer, nil, 0) end
  self.layer = nil
  self:compute('head', self.head)
  self:compute('loss', self.loss)
end

function Program:backward()
  self.phase = 'backward'
  self:compute('head', self.head_back)
  for layer = self.layers - 1, 0, -1 do
    if self.recompute and not self.schedule.recompute then
      self.phase = 'recompute'
      layer_step.forward_layer(self, layer, nil, 0, -1)
    end
    layer_step.backward_layer(self, layer)
  end
  self.layer = nil
  for _ = 1, self.dense_layers do
    if self.schedule.recompute or self.recompute then
      self.phase = self.schedule.recompute and 'forward' or 'recompute'
      step_ops.dense_layer(self)
    end
    self.phase = 'backward'
    step_ops.dense_layer_back(self)
  end
  self:compute('embed', self.embed_back)
  if self.micro == self.last_micro then self.pipeline:finish() else self.pipeline:release() end
end

--- The last gradients, the optimizer, and the gathering of what it has changed.
function Program:finish_step()
  self.phase, self.micro = 'step', nil
  self:dense_reduce(self.dense_last and self.dense.all or self.dense.outer)
  self:wait(self.dense_reduced)
  self:compute('optimizer', self.optimizer)
  self:exchange('dense gather', 'unshard', { ports = self.dense.all.gather_ports,
    uplinks = self.dense.all.gather_uplinks })
  if self.refresh then self:exchange('refresh', 'unshard', self.refresh) end
end

--- Fills a cluster (cleared before) with a step. o:
--   schedule                what schedule.resolve gives
--   layers, dense_layers    with experts, and without, which are the first
--   recompute               of the model: layers are computed again before their backward, with all
--                           that travels, unless the schedule recomputes
--   shared, shared_back     seconds of a layer's shared experts, nil without any
--   network, network_back   of the network of a layer without experts
--   token_peers             of exchanges of tokens: 'all' or 'nodes' (cluster:exchange)
--   token_group, tensor, tensor_ports, gradient_scale (bytes of a gradient / of a
--                           parameter), resident (experts stay where they are), accumulate
--                           (gradients are sent in the last micro-batch only)
--   attention, attention_back, embed, embed_back, route, route_back, permute, finish, finish_back,
--   head, loss, head_back, optimizer, host, host_seconds (of a layer's plan on the counts, and of
--                           its split), sum (of gradients that have arrived): seconds
--   unpack                  seconds of a rank's own for an unshard
--   unshard_share,          of the bytes of parameters, and of tokens on their way to the experts,
--   dispatch_share          that travel: less than 1 in FP8
--   expert_factor           forward, backward: what the experts' seconds are multiplied by
--   dense_last              gradients of dense parameters are summed when all are there, not layer
--                           by layer
--   dense                   bytes of the dense parameters' exchanges, of a layer, outer and all
--   copied                  exchanges are work of the ranks (simulate/machines.lua)
--   refresh                 ports and uplinks: new parameters to the shard groups; or nil
--   micro                   for every micro-batch loads[layer] = { ports, uplinks (of every chunk),
--                           segments, seconds }, weights[layer] = { ports, uplinks, group, moves
--                           (false: there is no such exchange), back = the same of gradients,
--                           accumulate = the same in other than the last micro-batch, or nil }
--                           and, where a plan on the counts changes the layout, base[layer] =
--                           the same of what it was, and weights[layer].changes = the same of
--                           what travels then
function step_program.build(cluster, o)
  cluster:clear()
  local self = setmetatable({ cluster = cluster, waits = {}, blocks = {}, experts = {},
    planned = {} }, Program)
  for name, value in pairs(o) do self[name] = value end
  local stores = {}
  for layer = 0, o.layers - 1 do
    self.blocks[layer] = step_ops.block(self, layer)
    self.experts[layer] = step_ops.experts(self, layer)
    stores[layer] = step_ops.store(self, layer)
  end
  local function layout(layer)
    return not self.planned[layer] and self.base[layer] or self.weights[layer]
  end
  self.session = { layout = function(_, layer) return layout(layer) end }
  self.pipeline = Pipeline.new { stores = stores, schedule = o.schedule, layout = layout,
    same = rawequal, copy = function(weights) return weights end }
  self.last_micro = #o.micro - 1
  for i, micro in ipairs(o.micro) do
    self.micro, self.loads, self.weights, self.base = i - 1, micro.loads, micro.weights, micro.base
    self:forward()
    self:backward()
  end
  self:finish_step()
end

return step_program

-- SPDX-License-Identifier: Apache-2.0

--- What a step of a model costs on a described machine: from layouts and splits, whoever made them
-- (init.lua, recipe_pricing.lua), to the seconds and bytes that a program is made of.
--
--   local p = step_cost.open { machine =, model =, topology =, schedule =, … }
--   p:tokens(layout, split, share)    -- a layer's experts and exchanges of tokens
--   p:weights(layout, base)           -- its exchanges of parameters
--   p:step(micro, tokens)             -- all that step_program.build needs

local lib = require 'neap.base.lib'
local op_cost = require 'neap.simulate.op_cost'
local models = require 'neap.simulate.models'
local step_ops = require 'neap.simulate.step_ops'

local ffi, C = lib.ffi, lib.C

local step_cost = {}

local StepCost = {}
StepCost.__index = StepCost

-- Hidden values need two of a forward's three products.
local RECALL = 2 / 3

local GROUPS = { all = C.NEAP_GROUP_ALL, node = C.NEAP_GROUP_NODE,
  resident = C.NEAP_GROUP_RESIDENT }

--- o: machine, model, topology (whose slots are those of layouts), schedule (all fields), and as
-- simulate.open has them unshard, dispatch, tensor, elementwise, token_group, shard_group,
-- gradient_bytes, accumulate, resident and dense_last (step_program.build).
function step_cost.open(o)
  local t = o.topology
  local self = setmetatable({ o = o, machine = o.machine, model = o.model, topology = t,
    op_cost = op_cost.of(o.machine, o.model, o.tensor, o.elementwise) }, StepCost)
  local chunks = o.schedule.chunks
  self.slot_tokens = ffi.new('int64_t[?]', t.slots)
  self.port_tokens = ffi.new('int64_t[?]', chunks * t.ranks)
  self.uplink_tokens = ffi.new('int64_t[?]', chunks * t.nodes)
  self.node_tokens = o.machine.deduplicated and ffi.new('double[?]', chunks * t.nodes)
  self.expert_bytes = ffi.new('double[?]', t.experts)
  for e = 0, t.experts - 1 do
    self.expert_bytes[e] = self.op_cost:expert_parameters(e) * o.model.bytes
  end
  if o.shard_group == 'resident' then
    self.home_first, self.home_past = ffi.new('int32_t[?]', t.ranks),
      ffi.new('int32_t[?]', t.ranks)
    for rank = 0, t.ranks - 1 do self.home_first[rank], self.home_past[rank] = t:home(rank) end
  end
  return self
end

local function arrays(t)
  return ffi.new('double[?]', t.ranks), ffi.new('double[?]', t.nodes)
end

local function scaled(array, offset, count, scale)
  local out = ffi.new('double[?]', count)
  for i = 0, count - 1 do out[i] = tonumber(array[offset + i]) * scale end
  return out
end

--- ---- a layer -----------------------------------------------------------------------------------

--- What counted tokens of all ranks have to be multiplied by to be the model's.
function StepCost:scale(counted)
  local m = self.model
  return counted > 0 and m.tokens * m.top_k * self.topology.ranks / counted or 0
end

--- Seconds of a segment's experts that need not wait for parameters: on every rank those before the
-- first slot whose expert is neither resident nor that of base (nil: none is).
local function kept_seconds(self, layout, base, share, segment)
  local t, expert_of, before = self.topology, layout:array(), base and base:array()
  local tokens = self.kept_tokens or ffi.new('int64_t[?]', t.slots)
  self.kept_tokens = tokens
  for rank = 0, t.ranks - 1 do
    local kept = true
    for slot = t.first_slot[rank], t.first_slot[rank + 1] - 1 do
      kept = kept and (before and expert_of[slot] == before[slot]
        or self:is_resident(expert_of[slot], rank))
      tokens[slot] = kept and self.slot_tokens[slot] or 0
    end
  end
  return self.op_cost:experts(layout, tokens, share, ffi.new('double[?]', t.ranks), segment.from,
    segment.upto)
end

--- The seconds of a segment, cut into kept, which need not wait for parameters, and the rest.
local function cut_segment(self, layout, base, share, segment)
  local kept, rest = kept_seconds(self, layout, base, share, segment),
    ffi.new('double[?]', self.topology.ranks)
  for rank = 0, self.topology.ranks - 1 do
    rest[rank] = math.max(segment.seconds[rank] - kept[rank], 0)
  end
  return { kept = kept, rest = rest }
end

--- Whether an expert stays whole on a rank.
function StepCost:is_resident(expert, rank)
  return self.home_first and expert >= self.home_first[rank] and expert < self.home_past[rank]
end

--- loads[layer] of step_program.build. share: of the tokens that were counted. base: the layout
-- that the layer began the step with, if the policy's plan on the counts has changed it.
function StepCost:tokens(layout, split, share, base)
  local t, s = self.topology, self.o.schedule
  split:slot_tokens(self.slot_tokens)
  lib.check(C.neap_split_traffic(split.ptr, s.chunks, self.port_tokens, self.uplink_tokens))
  if self.node_tokens then
    lib.check(C.neap_split_node_traffic(split.ptr, s.chunks, self.model.top_k,
      self.model.node_limit or 0, self.node_tokens))
  end
  local uplinks = self.node_tokens or self.uplink_tokens
  local bytes, load = self.op_cost:token_bytes() * share, { ports = {}, uplinks = {} }
  for chunk = 1, s.chunks do
    load.ports[chunk] = scaled(self.port_tokens, (chunk - 1) * t.ranks, t.ranks, bytes)
    load.uplinks[chunk] = scaled(uplinks, (chunk - 1) * t.nodes, t.nodes, bytes)
  end
  load.segments = step_ops.segments(t:slots_of(0), s.chunks, s.unshard_parts)
  for _, segment in ipairs(load.segments) do
    segment.seconds = self.op_cost:experts(layout, self.slot_tokens, share,
      ffi.new('double[?]', t.ranks), segment.from, segment.upto)
    if base then segment.late = cut_segment(self, layout, base, share, segment) end
    if self.home_first then segment.ahead = cut_segment(self, layout, nil, share, segment) end
    if s.recompute then segment.recompute = step_ops.scaled(segment.seconds, t.ranks, RECALL) end
  end
  load.seconds = #load.segments == 1 and load.segments[1].seconds
    or self.op_cost:experts(layout, self.slot_tokens, share, ffi.new('double[?]', t.ranks))
  return load
end

--- Bytes on the links when the experts that stay on ranks, in slots / experts copies on as many
-- nodes, are summed and cut over their copies, or gathered.
local function copies(self)
  local t, count = self.topology, self.topology.slots / self.topology.experts
  local bytes = self.expert_bytes[0] * t.slots / t.ranks * (count - 1) / count
  local ports, uplinks = arrays(t)
  for r = 0, t.ranks - 1 do ports[r] = bytes end
  for n = 0, t.nodes - 1 do
    uplinks[n] = t.nodes > 1 and bytes * (t.first_rank[n + 1] - t.first_rank[n]) or 0
  end
  return { ports = ports, uplinks = uplinks, moves = true, group = self.o.shard_group }
end

local function any(array, count)
  for i = 0, count - 1 do
    if array[i] > 0 then return true end
  end
  return false
end

--- What an exchange of resident experts is: moves (nothing at all: there is none), and group, the
-- ranks that it is among: a node's, where nothing leaves one.
local function of_homes(self, ports, uplinks, across)
  local t = self.topology
  local leaves = any(uplinks, t.nodes)
  return { ports = ports, uplinks = uplinks, moves = any(ports, t.ranks),
    group = leaves and (across or t.homes) or 'node' }
end

--- Bytes of the slots of a layout, or of those that are new to ranks with another one.
local function slots(self, layout, base)
  local ports, uplinks = arrays(self.topology)
  local group = self.o.shard_group
  lib.check(C.neap_layout_traffic(layout.ptr, base and base.ptr, self.expert_bytes,
    GROUPS[group] or group, ports, uplinks))
  if self.home_first then return of_homes(self, ports, uplinks) end
  return { ports = ports, uplinks = uplinks, moves = true, group = group }
end

--- The gradients of the layout that tokens were priced for last, on their way to all homes, or with
-- accumulate to that in their run of ranks.
local function gradients(self, layout, accumulate)
  local ports, uplinks = arrays(self.topology)
  lib.check(C.neap_layout_return_traffic(layout.ptr, self.slot_tokens, self.expert_bytes,
    accumulate and 1 or 0, ports, uplinks))
  return of_homes(self, ports, uplinks, not accumulate and 'all' or nil)
end

--- Share of an expert that a rank which is not its home holds itself, as its shard.
local function shard_share(self, rank)
  local t, group = self.topology, self.o.shard_group
  if group == 'resident' then return 0 end
  if group == 'all' then return 1 / t.ranks end
  if group == 'node' then
    local node = t:node_of(rank)
    return 1 / (t.first_rank[node + 1] - t.first_rank[node])
  end
  return 1 / math.min(group, t.ranks - math.floor(rank / group) * group)
end

--- Bytes of the experts that ranks have, do not keep whole, and lacked in base: what comes from
-- other ranks.
local function arriving_bytes(self, layout, base)
  local t, now, before, sum = self.topology, layout:array(), base:array(), 0
  for rank = 0, t.ranks - 1 do
    local had, share = {}, 1 - shard_share(self, rank)
    for slot = t.first_slot[rank], t.first_slot[rank + 1] - 1 do had[before[slot]] = true end
    for slot = t.first_slot[rank], t.first_slot[rank + 1] - 1 do
      local expert = now[slot]
      if not had[expert] and not self:is_resident(expert, rank) then
        sum = sum + self.expert_bytes[expert] * share
      end
      had[expert] = true
    end
  end
  return sum
end

--- weights[layer] and base[layer] of step_program.build; weights' late_bytes: of all ranks. To be
-- called after tokens. base: the layout that the layer began the step with, if the policy's plan on
-- the counts has changed it.
function StepCost:weights(layout, base)
  local weights = self.o.resident and copies(self) or slots(self, layout)
  weights.back = weights
  if self.home_first then
    weights.back = gradients(self, layout, false)
    weights.accumulate = self.topology.homes < self.topology.ranks
      and gradients(self, layout, true) or nil
  end
  if self.o.resident then return weights end
  if not base or layout:changed(base) == 0 then return weights end
  weights.changes = slots(self, layout, base)
  weights.late_bytes = arriving_bytes(self, layout, base)
  return weights, slots(self, base)
end

--- ---- a fetch -----------------------------------------------------------------------------------

--- Seconds until a rank that fetches one expert late has it, nobody else fetching any.
local function fetch_seconds(self, bytes)
  local t, m, group = self.topology, self.machine, self.o.shard_group
  local node = t.ranks / t.nodes
  local sources = ({ all = t.ranks, node = node, resident = t.homes })[group] or group
  local far = math.max(0, 1 - node / sources)
  return (far > 0 and m.far_latency or m.latency)
    + math.max(bytes / m.port, bytes * far / m.uplink)
end

--- Work (tokens x cost) that a rank computes forward in the time that it takes to fetch an expert
-- late: the largest one. counted: tokens of all ranks in a load, by which those of the loads differ
-- from the model's.
function StepCost:fetch_work(counted)
  local t, largest = self.topology, 0
  for e = 1, t.experts - 1 do
    if self.expert_bytes[e] > self.expert_bytes[largest] then largest = e end
  end
  local _, each = self.op_cost:expert_line(largest)
  local tokens = fetch_seconds(self, self.expert_bytes[largest]) / each
  return tokens * t:cost(largest) / self:scale(counted)
end

--- ---- a step ------------------------------------------------------------------------------------

--- Bytes on the links when gradients of dense parameters are summed and cut over all ranks, and
-- when the parameters are gathered: every rank and node takes in all but its own part.
local function dense_exchange(self, parameters)
  local o, t, m, out = self.o, self.topology, self.machine, {}
  local best = m.rates and m.rates[#m.rates][2] or m.port
  local slower = m.collective and best / m.collective or 1
  local function fill(kind, bytes)
    local ports, uplinks = arrays(t)
    for r = 0, t.ranks - 1 do
      ports[r] = bytes / o.tensor * (t.ranks - 1) / t.ranks * slower
    end
    for n = 0, t.nodes - 1 do uplinks[n] = bytes * (t.nodes - 1) / t.nodes end
    out[kind .. '_ports'], out[kind .. '_uplinks'] = ports, uplinks
  end
  fill('reduce', parameters * o.gradient_bytes)
  fill('gather', parameters * self.model.bytes)
  return out
end

local function add(to, from, count, times)
  for i = 0, count - 1 do to[i] = to[i] + times * from[i] end
end

local function dense(self)
  local t, m, layers = self.topology, self.model, models.moe_layers(self.model)
  local layer, outer = self.op_cost:dense_parameters(), self.op_cost:outer_parameters()
  local first = self.op_cost:dense_layer_parameters()
  local out = {
    layer = dense_exchange(self, layer), outer = dense_exchange(self, outer),
    first = dense_exchange(self, first),
    all = dense_exchange(self, layer * layers + first * m.dense_layers + outer),
  }
  if self.o.resident then
    local extra = copies(self)
    add(out.all.gather_ports, extra.ports, t.ranks, layers)
    add(out.all.gather_uplinks, extra.uplinks, t.nodes, layers)
  end
  return out
end

--- New parameters between the homes of every expert, of all layers; nil where it has one.
local function gather(self)
  local t, layers = self.topology, models.moe_layers(self.model)
  if t.homes == t.ranks then return nil end
  local ports, uplinks = arrays(t)
  lib.check(C.neap_topology_gather_traffic(t.ptr, self.expert_bytes, ports, uplinks))
  return { ports = step_ops.scaled(ports, t.ranks, layers),
    uplinks = step_ops.scaled(uplinks, t.nodes, layers) }
end

--- New parameters to the shard groups: a rank holds 1 / group of all experts, and owns less.
local function refresh(self, share)
  local t, group, bytes = self.topology, self.o.shard_group, 0
  if self.home_first then return gather(self) end
  if self.o.resident or group == 'all' or group == t.ranks then return nil end
  local size = group == 'node' and t.ranks / t.nodes or group
  for e = 0, t.experts - 1 do bytes = bytes + self.expert_bytes[e] end
  bytes = bytes * models.moe_layers(self.model)
  local ports, uplinks = arrays(t)
  for r = 0, t.ranks - 1 do ports[r] = bytes / size * (1 - size / t.ranks) end
  for n = 0, t.nodes - 1 do
    local here = t.first_rank[n + 1] - t.first_rank[n]
    uplinks[n] = bytes / size * here * (1 - math.max(here, size) / t.ranks)
  end
  return { ports = ports, uplinks = uplinks, share = share }
end

local function tensor_ports(self, tokens)
  local ports, tensor = arrays(self.topology), self.o.tensor
  for r = 0, self.topology.ranks - 1 do
    ports[r] = tokens * (tensor - 1) * self.op_cost:token_bytes()
  end
  return ports
end

--- What step_program.build takes. micro: of tokens of a rank in each.
function StepCost:step(micro, tokens)
  local o, m, cost, t = self.o, self.model, self.op_cost, self.topology
  local slot_bytes = self.expert_bytes[0] * t.slots / t.ranks
  local unshard_share = cost:travel_share(o.unshard, cost:expert_parameters(0))
  local d = {
    schedule = o.schedule, micro = micro, layers = models.moe_layers(m),
    dense_layers = m.dense_layers, recompute = m.recompute, token_group = o.token_group,
    token_peers = self.node_tokens and 'nodes' or 'all', dense_last = o.dense_last,
    expert_factor = { forward = cost:factor 'expert', backward = cost:factor 'expert backward' },
    unpack = cost:unpack(slot_bytes) + cost:restore(o.unshard, slot_bytes, unshard_share),
    host_seconds = (self.machine.split or 0) + (self.plans_now and self.machine.plan or 0),
    tensor = o.tensor, resident = o.resident, accumulate = o.accumulate,
    unshard_share = unshard_share, dispatch_share = cost:travel_share(o.dispatch, m.hidden),
    gradient_scale = o.gradient_bytes / m.bytes, dense = dense(self),
    refresh = refresh(self, unshard_share),
    optimizer = cost:optimizer(t.ranks), host = self.machine.host, copied = self.machine.copied,
    sum = cost:sum(slot_bytes * o.gradient_bytes / m.bytes),
  }
  d.attention, d.attention_back = cost:attention(tokens)
  d.embed, d.embed_back = cost:embed(tokens)
  d.head, d.loss, d.head_back = cost:head(tokens)
  d.shared, d.shared_back = cost:shared(tokens)
  d.network, d.network_back = cost:dense_network(tokens)
  d.permute = cost:permute(tokens)
    + cost:restore(o.dispatch, tokens * m.top_k * cost:token_bytes(), d.dispatch_share)
  d.finish, d.finish_back = cost:finish(tokens)
  local _, route_back = cost:route(tokens)
  local _, permute_back = cost:permute(tokens)
  d.route, d.route_back = cost:route(tokens), route_back + permute_back
  if o.tensor > 1 then d.tensor_ports = tensor_ports(self, tokens) end
  return d
end

return step_cost

-- SPDX-License-Identifier: Apache-2.0

--- LAER-MoE's planner in pure Lua: the same layouts as the built-in laer, to read and to change.
-- Its loops run over C arrays and compile, so that it keeps within 4 times the C planner's time.
local ffi = require 'ffi'
local policy = require 'neap.policy'

local Laer = policy.define {
  name = 'laer_lua',
  doc = "LAER-MoE's planner, in Lua",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    token_bytes = { default = 8192, min = 1, doc = 'bytes of a token' },
    near_gbs = { default = 216.27, min = 1e-6, doc = 'GB/s between ranks of a node' },
    far_gbs = { default = 88.95, min = 1e-6, doc = 'GB/s between nodes' },
    token_us = { default = 1.63809, min = 1e-9, doc = "microseconds of a token's expert forward" },
  },
  split = 'lite',
}

local doubles, ints = ffi.typeof 'double[?]', ffi.typeof 'int32_t[?]'

--- Working memory for a topology.
local function open_scratch(t)
  return {
    t = t, work = doubles(t.experts), count = ints(t.experts), order = ints(t.experts),
    rank_work = doubles(t.ranks), rank_share = doubles(t.ranks), free = ints(t.ranks),
    best_rank = ints(t.nodes), best_share = doubles(t.nodes),
    keys = doubles(math.max(t.experts, t.nodes) + 1), ids = ints(math.max(t.experts, t.nodes) + 1),
    node_load = doubles(t.nodes * t.experts), replicas = ints(t.nodes * t.experts),
    pool = doubles(t.experts), by_load = ints(t.slots), alike = ints(t.slots), answer = {},
  }
end

--- work[expert]: tokens x cost of all ranks, and a trifle, so that experts without any tie fairly.
local function weigh(s, load)
  local t, work, total = s.t, s.work, 0
  local experts = t.experts
  for e = 0, experts - 1 do work[e] = 0 end
  for r = 0, t.ranks - 1 do
    for e = 0, experts - 1 do work[e] = work[e] + load[r * experts + e] end
  end
  for e = 0, experts - 1 do
    work[e] = work[e] * t.expert_cost[e]
    total = total + work[e]
  end
  for e = 0, experts - 1 do work[e] = work[e] + 1e-9 * (total > 0 and total or 1) end
end

--- Lets (key, id) sink from index i of a heap of size items, smallest key on top, ties to low ids.
local function sink(keys, ids, size, i, key, id)
  local child = 2 * i + 1
  while child < size do
    local k, n = keys[child], ids[child]
    if child + 1 < size then
      local k2, n2 = keys[child + 1], ids[child + 1]
      if k2 < k or k2 == k and n2 < n then k, n, child = k2, n2, child + 1 end
    end
    if not (k < key or k == key and n < id) then break end
    keys[i], ids[i] = k, n
    i, child = child, 2 * child + 1
  end
  keys[i], ids[i] = key, id
end

local function build_heap(keys, ids, size)
  for i = math.floor(size / 2) - 1, 0, -1 do sink(keys, ids, size, i, keys[i], ids[i]) end
end

--- Replicas by load: one per node to begin with, if that fits; then the heaviest expert gains one,
-- or one per node once it has that many; it keeps what it has if so many slots are not left.
local function replicate(s)
  local t, work, count, keys, ids = s.t, s.work, s.count, s.keys, s.ids
  local start = t.experts * t.nodes <= t.slots and t.nodes or 1
  for e = 0, t.experts - 1 do
    count[e], keys[e], ids[e] = start, -work[e] / start, e
  end
  build_heap(keys, ids, t.experts)
  local left, nodes, size = t.slots - t.experts * start, t.nodes, t.experts
  while left > 0 and size > 0 do
    local e = ids[0]
    local gain = count[e] < nodes and 1 or nodes
    if gain <= left then
      count[e] = count[e] + gain
      left = left - gain
      sink(keys, ids, size, 0, -work[e] / count[e], e)
    else
      size = size - 1
      sink(keys, ids, size, 0, keys[size], ids[size])
    end
  end
end

--- Fills order with the experts, most work per replica first.
local function sort_experts(s)
  local t, keys, ids, order = s.t, s.keys, s.ids, s.order
  for e = 0, t.experts - 1 do keys[e], ids[e] = -(s.work[e] / s.count[e]), e end
  build_heap(keys, ids, t.experts)
  for left = t.experts - 1, 0, -1 do
    order[t.experts - 1 - left] = ids[0]
    sink(keys, ids, left, 0, keys[left], ids[left])
  end
end

--- The least loaded rank of a node that has a free slot; infinite work if there is none.
local function find_best(s, node)
  local free, rank_share, first = s.free, s.rank_share, s.t.first_rank
  local best, least = -1, math.huge
  for r = first[node], first[node + 1] - 1 do
    if free[r] > 0 and rank_share[r] < least then best, least = r, rank_share[r] end
  end
  s.best_rank[node], s.best_share[node] = best, least
end

--- Puts one replica on the least loaded rank of a node.
local function assign(s, expert, share, node, out)
  local rank = s.best_rank[node]
  out[s.t.first_slot[rank + 1] - s.free[rank]] = expert
  s.free[rank] = s.free[rank] - 1
  s.rank_work[rank] = s.rank_work[rank] + share
  s.rank_share[rank] = s.rank_work[rank] / s.t.rank_speed[rank]
  find_best(s, node)
end

--- Heap of the nodes that have a free slot, the least loaded rank on top. Returns its size.
local function open_nodes(s)
  local keys, ids, best_share, size = s.keys, s.ids, s.best_share, 0
  for n = 0, s.t.nodes - 1 do
    if best_share[n] < math.huge then
      keys[size], ids[size] = best_share[n], n
      size = size + 1
    end
  end
  build_heap(keys, ids, size)
  return size
end

--- One replica to each node that has a free slot, at most left of them, nodes with the least loaded
-- ranks first. Returns how many it has assigned.
local function assign_round(s, expert, share, left, out)
  local keys, ids, assigned = s.keys, s.ids, 0
  local size = open_nodes(s)
  while left > assigned and size > 0 do
    assign(s, expert, share, ids[0], out)
    assigned, size = assigned + 1, size - 1
    sink(keys, ids, size, 0, keys[size], ids[size])
  end
  return assigned
end

--- The rest of an expert's replicas, each to the least loaded rank of any node: the nodes with the
-- fewest of them are full.
local function place_anywhere(s, expert, share, left, out)
  local keys, ids = s.keys, s.ids
  local size = open_nodes(s)
  for _ = 1, left do
    local node = ids[0]
    assign(s, expert, share, node, out)
    if s.best_share[node] == math.huge then
      size = size - 1
      sink(keys, ids, size, 0, keys[size], ids[size])
    else
      sink(keys, ids, size, 0, s.best_share[node], node)
    end
  end
end

local function place_all(s, expert, share, left, out)
  local nodes = s.t.nodes
  local assigned = nodes
  while left > 0 and assigned == nodes do
    assigned = assign_round(s, expert, share, left, out)
    left = left - assigned
  end
  if left > 0 then place_anywhere(s, expert, share, left, out) end
end

local function rank_holds(s, rank, expert, out)
  for slot = s.t.first_slot[rank], s.t.first_slot[rank + 1] - s.free[rank] - 1 do
    if out[slot] == expert then return true end
  end
  return false
end

--- The expert with the most work per replica; if lacking, among those that the rank lacks.
local function neediest(s, rank, lacking, out)
  local work, count, best, most = s.work, s.count, -1, -1
  for e = 0, s.t.experts - 1 do
    local need = work[e] / count[e]
    if need > most and not (lacking and rank_holds(s, rank, e, out)) then best, most = e, need end
  end
  return best
end

--- Slots that are left over, since nodes or slots differ.
local function fill(s, out)
  local first = s.t.first_slot
  for rank = 0, s.t.ranks - 1 do
    while s.free[rank] > 0 do
      local e = neediest(s, rank, true, out)
      if e < 0 then e = neediest(s, rank, false, out) end
      out[first[rank + 1] - s.free[rank]] = e
      s.free[rank], s.count[e] = s.free[rank] - 1, s.count[e] + 1
    end
  end
end

--- Places all replicas, heaviest first, into out[slots]: each to the nodes with the fewest replicas
-- of its expert, there to the least loaded rank.
local function relocate(s, out)
  local t, work, count, order = s.t, s.work, s.count, s.order
  sort_experts(s)
  for r = 0, t.ranks - 1 do
    s.free[r], s.rank_work[r], s.rank_share[r] = t.first_slot[r + 1] - t.first_slot[r], 0, 0
  end
  for n = 0, t.nodes - 1 do find_best(s, n) end
  for i = 0, t.experts - 1 do
    local e = order[i]
    place_all(s, e, work[e] / count[e], count[e], out)
  end
  fill(s, out)
end

--- Tokens of every node, and of every expert from nodes that have no replica; returns these.
local function pool_tokens(s, load, expert_of)
  local t, node_load, replicas, pool, far = s.t, s.node_load, s.replicas, s.pool, 0
  local experts, rank_node = t.experts, t.rank_node
  ffi.fill(node_load, t.nodes * experts * 8)
  ffi.fill(replicas, t.nodes * experts * 4)
  ffi.fill(pool, experts * 8)
  for r = 0, t.ranks - 1 do
    local cell, row = rank_node[r] * experts, r * experts
    for e = 0, experts - 1 do node_load[cell + e] = node_load[cell + e] + load[row + e] end
  end
  for n = 0, t.nodes - 1 do
    for slot = t.first_slot[t.first_rank[n]], t.first_slot[t.first_rank[n + 1]] - 1 do
      local cell = n * experts + expert_of[slot]
      replicas[cell] = replicas[cell] + 1
    end
  end
  for n = 0, t.nodes - 1 do
    for e = 0, experts - 1 do
      local lost = replicas[n * experts + e] > 0 and 0 or node_load[n * experts + e]
      pool[e] = pool[e] + lost
      far = far + lost
    end
  end
  return far
end

--- Predicted microseconds: four token exchanges, summed over ranks, and four expert forwards' worth
-- of compute (forward, recomputed forward, backward) on the slowest rank, under the split lite.
local function price(self, load, expert_of)
  local s, near, most = self.scratch, 0, 0
  local t, node_load, replicas, pool, count = s.t, s.node_load, s.replicas, s.pool, s.count
  local experts, far = t.experts, pool_tokens(s, load, expert_of)
  ffi.fill(count, experts * 4)
  for slot = 0, t.slots - 1 do count[expert_of[slot]] = count[expert_of[slot]] + 1 end
  for r = 0, t.ranks - 1 do
    local sum, cells, row = 0, t.rank_node[r] * experts, r * experts
    for slot = t.first_slot[r], t.first_slot[r + 1] - 1 do
      local e = expert_of[slot]
      local copies = replicas[cells + e]
      local here = node_load[cells + e] / copies
      sum = sum + (here + pool[e] / count[e]) * t.expert_cost[e]
      near = near + here - load[row + e] / copies
    end
    most = math.max(most, sum / t.rank_speed[r])
  end
  local exchange = self.token_bytes * 1e-3 * (near / self.near_gbs + far / self.far_gbs)
  return 4 * exchange + 4 * self.token_us * most
end

--- Plans on load[ranks][experts] for a topology; expert_of[slots].
local function choose(self, topology, load)
  self.scratch = self.scratch or open_scratch(topology)
  local s = self.scratch
  weigh(s, load)
  replicate(s)
  relocate(s, s.by_load)
  if topology.slots % topology.experts ~= 0 then return s.by_load end
  for e = 0, topology.experts - 1 do s.count[e] = topology.slots / topology.experts end
  relocate(s, s.alike)
  return price(self, load, s.by_load) < price(self, load, s.alike) and s.by_load or s.alike
end

function Laer:plan(ctx)
  local expert_of = choose(self, ctx.topology, ctx.history:sum(self.window).ptr)
  local answer = self.scratch.answer
  for slot = 0, ctx.topology.slots - 1 do answer[slot + 1] = expert_of[slot] end
  return answer
end

return Laer

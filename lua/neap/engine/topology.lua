-- SPDX-License-Identifier: Apache-2.0

--- Topologies: ranks in nodes, their expert slots, what experts cost. Immutable; ids from 0.
--
--   local t = topology.open { ranks = 8, node_size = 4, slots = 2, experts = 8 }
--   topology.open { nodes = { 4, 3, 1 }, slots = { 2, 2, 2, 2, 3, 3, 3, 4 }, experts = 8,
--                   cost = { … }, speed = { … } }
--   t.ranks, t.nodes, t.experts, t.slots                 how many; slots: of all ranks together
--   t.homes                                              ranks of a run of homes, or nil
--   t:node_of(rank) t:slots_of(rank) t:speed(rank) t:cost(expert) t:ranks_of(node) -> first, last

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'

local ffi, C = lib.ffi, lib.C

local topology = {}

local Topology = {}
Topology.__index = Topology

local SPEC = {
  ranks = { type = 'number' }, experts = { type = 'number', needed = true },
  slots = { type = 'number table', needed = true }, node_size = { type = 'number' },
  nodes = { type = 'table' }, node_of = { type = 'cdata' }, cost = { type = 'table' },
  speed = { type = 'table' }, homes = { type = 'number' },
}

local function bad(message, ...)
  lib.raise('ARGUMENT', 'topology: ' .. message:format(...), 4)
end

local MOST = 2 ^ 20 -- ranks, experts, and slots of a rank

local function check_whole(name, value)
  if type(value) ~= 'number' or value % 1 ~= 0 or value < 1 or value > MOST then
    bad('%s is %s; it must be a whole number from 1 to %d', name, tostring(value), MOST)
  end
  return value
end

local function nodes_by_list(sizes, ranks)
  local total = 0
  for _, size in ipairs(sizes) do total = total + check_whole('a node', size) end
  if ranks and ranks ~= total then
    bad('nodes have %d ranks together; ranks is %d', total, ranks)
  end
  local node_of, rank = ffi.new('int32_t[?]', math.max(total, 1)), 0
  for node, size in ipairs(sizes) do
    for _ = 1, size do
      node_of[rank] = node - 1
      rank = rank + 1
    end
  end
  return total, node_of
end

--- Number of ranks, and node of each: by nodes (ranks of each), node_of (a C array), or node_size
-- (ranks per node; the last may be smaller; default: one node).
local function find_nodes(d)
  if (d.nodes and 1 or 0) + (d.node_of and 1 or 0) + (d.node_size and 1 or 0) > 1 then
    bad('give one of nodes, node_of and node_size')
  end
  if d.nodes then return nodes_by_list(d.nodes, d.ranks) end
  local ranks = check_whole('ranks', d.ranks)
  if d.node_of then return ranks, d.node_of end
  local node_of, size = ffi.new('int32_t[?]', ranks), check_whole('node_size', d.node_size or ranks)
  for r = 0, ranks - 1 do node_of[r] = math.floor(r / size) end
  return ranks, node_of
end

local function find_slots(slots, ranks)
  local slots_of = ffi.new('int32_t[?]', ranks)
  if type(slots) == 'table' and #slots ~= ranks then
    bad('slots of %d ranks; there are %d ranks', #slots, ranks)
  end
  for r = 0, ranks - 1 do
    slots_of[r] = check_whole('slots', type(slots) == 'table' and slots[r + 1] or slots)
  end
  return slots_of
end

--- A list of count numbers, or nil.
local function find_numbers(name, list, count)
  if not list then return nil end
  if #list ~= count then bad('%s has %d values; expected are %d', name, #list, count) end
  for i, value in ipairs(list) do
    if type(value) ~= 'number' then
      bad('%s %d is %s; it must be a number', name, i - 1, tostring(value))
    end
  end
  return ffi.new('double[?]', count, list)
end

local function wrap(ptr)
  local self = lib.handle(Topology, ptr, C.neap_topology_close)
  self.ranks, self.nodes = C.neap_topology_ranks(ptr), C.neap_topology_nodes(ptr)
  self.experts, self.slots = C.neap_topology_experts(ptr), C.neap_topology_slots(ptr)
  self.first_slot, self.first_rank = C.neap_topology_first_slot(ptr),
    C.neap_topology_first_rank(ptr)
  self.rank_node, self.rank_speed = C.neap_topology_node_of(ptr), C.neap_topology_speed(ptr)
  self.expert_cost = C.neap_topology_cost(ptr)
  local homes = C.neap_topology_homes(ptr)
  self.homes = homes > 0 and homes or nil
  return self
end

--- Fields: experts; slots (per rank, or a list); ranks with node_size (default: one node) or
-- node_of (int32_t[ranks]), or nodes (list of the nodes' ranks); cost (list, work of a token by
-- expert, default 1) and speed (list, by rank, default 1); homes (ranks of a run in which every
-- expert has a home, a divisor of ranks; default: experts have none). Raises ARGUMENT.
-- : table -> Topology
function topology.open(description)
  local wrong = options.problem(description, SPEC, 'topology', 'field')
  if wrong then lib.raise('ARGUMENT', wrong, 2) end
  local experts = check_whole('experts', description.experts)
  local ranks, node_of = find_nodes(description)
  local slots_of = find_slots(description.slots, ranks)
  local out = ffi.new 'neap_topology *[1]'
  local cost = find_numbers('cost', description.cost, experts)
  local speed = find_numbers('speed', description.speed, ranks)
  lib.check(C.neap_topology_open(ranks, experts, node_of, slots_of, cost, speed, out), 2)
  local ptr = out[0]
  if description.homes then
    local status = C.neap_topology_set_homes(ptr, check_whole('homes', description.homes))
    if status ~= 0 then C.neap_topology_close(ptr) end
    lib.check(status, 2)
  end
  return wrap(ptr)
end

local function check(what, id, count)
  if not (type(id) == 'number' and id >= 0 and id < count and id % 1 == 0) then
    lib.raise('ARGUMENT', ('topology: no %s %s; allowed are 0 to %d'):format(what, tostring(id),
      count - 1), 3)
  end
end

--- Node of a rank.
-- : integer -> integer
function Topology:node_of(rank)
  check('rank', rank, self.ranks)
  return self.rank_node[rank]
end

--- Expert slots of a rank.
-- : integer -> integer
function Topology:slots_of(rank)
  check('rank', rank, self.ranks)
  return self.first_slot[rank + 1] - self.first_slot[rank]
end

--- Relative speed of a rank.
-- : integer -> number
function Topology:speed(rank)
  check('rank', rank, self.ranks)
  return self.rank_speed[rank]
end

--- Work of one token of an expert.
-- : integer -> number
function Topology:cost(expert)
  check('expert', expert, self.experts)
  return self.expert_cost[expert]
end

--- Experts at home on a rank: the first, and the one after the last.
-- : integer -> integer, integer
function Topology:home(rank)
  check('rank', rank, self.ranks)
  local bounds = ffi.new 'int32_t[2]'
  C.neap_topology_home(self.ptr, rank, bounds, bounds + 1)
  return bounds[0], bounds[1]
end

--- First and last rank of a node.
-- : integer -> integer, integer
function Topology:ranks_of(node)
  check('node', node, self.nodes)
  return self.first_rank[node], self.first_rank[node + 1] - 1
end

function Topology:__tostring()
  return ('%d ranks in %d nodes, %d slots for %d experts'):format(self.ranks, self.nodes,
    self.slots, self.experts)
end

--- Why layouts and splits hardly matter here, or nil: where there is a choice for them.
-- : -> string?
function Topology:remark()
  if self.ranks == 1 then return 'all experts are on one rank: no layout and no split differs' end
  if self.slots > self.experts then return nil end
  return ('there are as many slots as experts (%d): no expert can have a second replica, so '
    .. 'policies differ only in which rank has which expert, and splits in nothing'):format(
    self.experts)
end

--- Frees the topology, once nothing uses it.
function Topology:close()
  lib.close(self)
end

return topology

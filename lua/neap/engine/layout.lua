-- SPDX-License-Identifier: Apache-2.0

--- Layouts: which expert is in which slot of every rank. Always valid once set; ids from 0.
--
--   local l = layout.open(topology)
--   l:set { { 0, 1 }, { 2, 3 } }       -- experts of rank 0, of rank 1
--   l:at(rank, slot) l:experts() l:replicas(expert) l:hash() l:changed(other)
--   print(l)                           -- a line per node: | 0 1 | 2 3 |
-- Policies make theirs with ctx:layout() (policy/layout_builder.lua).

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local layout = {}

local Layout = {}
Layout.__index = Layout

local function bad(message, ...)
  lib.raise('LAYOUT', 'layout: ' .. message:format(...), 4)
end

--- A layout of the topology, not valid before it is set.
-- : Topology -> Layout
function layout.open(topology)
  local out = ffi.new 'neap_layout *[1]'
  lib.check(C.neap_layout_open(topology.ptr, out), 2)
  local self = lib.handle(Layout, out[0], C.neap_layout_close)
  self.topology = topology
  return self
end

local function check_expert(expert, rank, slot)
  if type(expert) ~= 'number' or expert % 1 ~= 0 or math.abs(expert) >= 2 ^ 31 then
    bad('slot %d of rank %d holds %s; it must be an expert, a whole number', slot, rank,
      tostring(expert))
  end
  return expert
end

--- Lists of experts, one per rank, as one C array.
local function from_ranks(topology, ranks)
  if #ranks ~= topology.ranks then
    bad('lists of %d ranks; there are %d ranks', #ranks, topology.ranks)
  end
  local expert_of = ffi.new('int32_t[?]', topology.slots)
  for rank = 0, topology.ranks - 1 do
    local experts, slots = ranks[rank + 1], topology:slots_of(rank)
    if type(experts) ~= 'table' or #experts ~= slots then
      bad('%s for rank %d; it has %d slots', type(experts) == 'table' and #experts .. ' experts'
        or 'a ' .. type(experts), rank, slots)
    end
    for slot = 0, slots - 1 do
      expert_of[topology.first_slot[rank] + slot] = check_expert(experts[slot + 1], rank, slot)
    end
  end
  return expert_of
end

local function from_slots(topology, list)
  if #list ~= topology.slots then
    bad('%d experts in the list; there are %d slots', #list, topology.slots)
  end
  local expert_of = ffi.new('int32_t[?]', topology.slots)
  for rank = 0, topology.ranks - 1 do
    for slot = topology.first_slot[rank], topology.first_slot[rank + 1] - 1 do
      expert_of[slot] = check_expert(list[slot + 1], rank, slot - topology.first_slot[rank])
    end
  end
  return expert_of
end

--- experts: lists of experts, one per rank; one list of all slots; or int32_t[slots]. Raises
-- LAYOUT; the layout then stays as it was.
-- : list or int32_t[slots] -> Layout
function Layout:set(experts)
  if type(experts) == 'table' then
    local read = type(experts[1]) == 'table' and from_ranks or from_slots
    experts = read(self.topology, experts)
  elseif type(experts) ~= 'cdata' then
    lib.raise('LAYOUT', ('layout: a %s; expected are lists of experts or a C array'):format(
      type(experts)), 2)
  end
  lib.check(C.neap_layout_set(self.ptr, experts), 2)
  return self
end

--- Takes over another layout of the same topology.
-- : Layout -> Layout
function Layout:copy(other)
  lib.check(C.neap_layout_copy(self.ptr, other.ptr), 2)
  return self
end

--- int32_t[slots], the layout's own: read only.
-- : -> int32_t[slots]
function Layout:array()
  return C.neap_layout_experts(self.ptr)
end

--- Expert in a slot of a rank; nil before the layout is set.
-- : integer, integer -> integer?
function Layout:at(rank, slot)
  local slots = self.topology:slots_of(rank)
  if not (type(slot) == 'number' and slot >= 0 and slot < slots and slot % 1 == 0) then
    lib.raise('ARGUMENT', ('layout: no slot %s on rank %d; allowed are 0 to %d'):format(
      tostring(slot), rank, slots - 1), 2)
  end
  local expert = self:array()[self.topology.first_slot[rank] + slot]
  return expert >= 0 and expert or nil
end

--- Lists of experts, one per rank, as set takes them.
-- : -> list of list
function Layout:experts()
  local ranks, array, first = {}, self:array(), self.topology.first_slot
  for rank = 0, self.topology.ranks - 1 do
    local experts = {}
    for slot = first[rank], first[rank + 1] - 1 do experts[#experts + 1] = array[slot] end
    ranks[rank + 1] = experts
  end
  return ranks
end

--- Where an expert is: list of { rank, slot }.
-- : integer -> list of { integer, integer }
function Layout:replicas(expert)
  if not (type(expert) == 'number' and expert >= 0 and expert < self.topology.experts) then
    lib.raise('ARGUMENT', ('layout: no expert %s; allowed are 0 to %d'):format(tostring(expert),
      self.topology.experts - 1), 2)
  end
  local list, array, first = {}, self:array(), self.topology.first_slot
  for rank = 0, self.topology.ranks - 1 do
    for slot = first[rank], first[rank + 1] - 1 do
      if array[slot] == expert then list[#list + 1] = { rank, slot - first[rank] } end
    end
  end
  return list
end

--- 16 hexadecimal digits, the same for equal layouts on every machine.
-- : -> string
function Layout:hash()
  return bit.tohex(self:hash_bits(), 16)
end

--- The same as uint64_t.
-- : -> uint64_t
function Layout:hash_bits()
  return C.neap_layout_hash(self.ptr)
end

--- Slots whose expert differs from another layout's.
-- : Layout -> integer
function Layout:changed(other)
  if other.topology.slots ~= self.topology.slots then
    lib.raise('ARGUMENT', ('layout: %d slots compared with %d'):format(self.topology.slots,
      other.topology.slots), 2)
  end
  return C.neap_layout_changed(self.ptr, other.ptr)
end

--- Gives experts that a rank has in base too the slots that they have there: only slots whose
-- expert the rank lacks in base differ from it then.
-- : Layout -> Layout
function Layout:align(base)
  lib.check(C.neap_layout_align(self.ptr, base.ptr), 2)
  return self
end

local most = lib.ffi.new 'int32_t[1]'

--- Experts that ranks have in this layout and lack in base, and the most of a rank: what travels
-- when it follows base.
-- : Layout -> integer, integer
function Layout:arrivals(base)
  local all = C.neap_layout_arrivals(base.ptr, self.ptr, most)
  return all, most[0]
end

--- A line per node; ranks between bars, a column per slot, empty slots as dots.
function Layout:__tostring()
  local t, array, lines = self.topology, self:array(), {}
  local width = #tostring(t.experts - 1)
  for node = 0, t.nodes - 1 do
    local cells = { ('node %d '):format(node) }
    for rank = t.first_rank[node], t.first_rank[node + 1] - 1 do
      cells[#cells + 1] = '|'
      for slot = t.first_slot[rank], t.first_slot[rank + 1] - 1 do
        local text = array[slot] >= 0 and tostring(array[slot]) or '.'
        cells[#cells + 1] = (' '):rep(1 + width - #text) .. text
      end
      cells[#cells + 1] = ' '
    end
    lines[#lines + 1] = table.concat(cells) .. '|'
  end
  return table.concat(lines, '\n')
end

--- Frees the layout.
function Layout:close()
  lib.close(self)
end

return layout

-- SPDX-License-Identifier: Apache-2.0

--- Layouts under construction, for policies: expert_of[slots], -1 where a slot is still empty.
-- place and spread fill the next free slot of a rank.

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C
local ints, doubles = ffi.typeof 'int32_t[?]', ffi.typeof 'double[?]'

local layout_builder = {}

local LayoutBuilder = {}
LayoutBuilder.__index = LayoutBuilder

--- shape: the topology. weight(expert): work of one replica, which spread
-- balances.
-- : Topology, function -> LayoutBuilder
function layout_builder.open(shape, weight)
  local self = setmetatable({
    shape = shape, weight = weight, expert_of = ints(shape.slots), used = ints(shape.ranks),
    work = doubles(shape.ranks), best = ints(shape.nodes), copies = {}, mark = ints(shape.ranks),
    spreads = 0,
  }, LayoutBuilder)
  ffi.fill(self.expert_of, shape.slots * 4, 0xff)
  for node = 0, shape.nodes - 1 do self.best[node] = shape.first_rank[node] end
  return self
end

local full_of = setmetatable({}, { __mode = 'k' })

--- Taken slots by rank when all are; shared, since a full builder takes no more.
local function full(shape)
  local used = full_of[shape]
  if used then return used end
  used = ints(shape.ranks)
  for rank = 0, shape.ranks - 1 do used[rank] = shape:slots_of(rank) end
  full_of[shape] = used
  return used
end

--- A full builder with the given experts[slots], copied; it can be changed by swap and replace.
-- : Topology, int32_t[slots] -> LayoutBuilder
function layout_builder.of(shape, experts)
  local self = setmetatable({
    shape = shape, expert_of = ints(shape.slots), used = full(shape),
  }, LayoutBuilder)
  ffi.copy(self.expert_of, experts, shape.slots * 4)
  return self
end

--- Whether a value is a layout builder.
-- : any -> boolean
function layout_builder.is_builder(value)
  return getmetatable(value) == LayoutBuilder
end

local function check_id(what, id, count)
  if type(id) ~= 'number' or id % 1 ~= 0 or id < 0 or id >= count then
    lib.raise('LAYOUT', ('layout: %s is %s; allowed are 0 to %d'):format(what, tostring(id),
      count - 1), 3)
  end
end

--- Free slots of a rank.
-- : integer -> integer
function LayoutBuilder:free(rank)
  check_id('rank', rank, self.shape.ranks)
  return self.shape:slots_of(rank) - self.used[rank]
end

--- Expert in a slot of a rank, or nil if it is empty.
-- : integer, integer -> integer?
function LayoutBuilder:at(rank, slot)
  check_id('rank', rank, self.shape.ranks)
  check_id('slot', slot, self.shape:slots_of(rank))
  local expert = self.expert_of[self.shape.first_slot[rank] + slot]
  return expert >= 0 and expert or nil
end

--- Whether a rank holds an expert.
-- : integer, integer -> boolean
function LayoutBuilder:holds(rank, expert)
  local first = self.shape.first_slot[rank]
  for slot = first, first + self.used[rank] - 1 do
    if self.expert_of[slot] == expert then return true end
  end
  return false
end

--- The least loaded rank of a node with a free slot, the lowest of equals; -1 if all are full.
local function best_of(self, node)
  local shape, best = self.shape, -1
  for rank = shape.first_rank[node], shape.first_rank[node + 1] - 1 do
    if self.used[rank] < shape.first_slot[rank + 1] - shape.first_slot[rank]
      and (best < 0 or self.work[rank] < self.work[best]) then
      best = rank
    end
  end
  return best
end

local function put(self, rank, expert)
  local shape, node = self.shape, self.shape.rank_node[rank]
  self.expert_of[shape.first_slot[rank] + self.used[rank]] = expert
  self.used[rank] = self.used[rank] + 1
  self.work[rank] = self.work[rank] + self.weight(expert) / shape.rank_speed[rank]
  local copies = self.copies[expert] or ints(shape.nodes)
  self.copies[expert] = copies
  copies[node] = copies[node] + 1
  self.best[node] = best_of(self, node)
end

--- Puts an expert into the next free slot of a rank.
-- : integer, integer -> LayoutBuilder
function LayoutBuilder:place(rank, expert)
  check_id('rank', rank, self.shape.ranks)
  check_id('expert', expert, self.shape.experts)
  if self:free(rank) == 0 then
    lib.raise('LAYOUT', ('layout: expert %d does not fit on rank %d; its %d slots are taken')
      :format(expert, rank, self.shape:slots_of(rank)), 2)
  end
  put(self, rank, expert)
  return self
end

--- Among nodes without a copy of the expert, the one with the least loaded rank; that rank, or nil.
local function choose_new_node(self, copies)
  local best, best_work = nil, math.huge
  for node = 0, self.shape.nodes - 1 do
    local rank = self.best[node]
    if rank >= 0 and (not copies or copies[node] == 0) and self.work[rank] < best_work then
      best, best_work = rank, self.work[rank]
    end
  end
  return best
end

--- Among all ranks with a free slot: one that is not marked, on the node with the fewest copies,
-- the least loaded, the lowest. nil if no slot is free.
local function choose_any(self, copies, mark)
  local shape, used, work, marks = self.shape, self.used, self.work, self.mark
  local best, best_double, best_copies, best_work = nil, 2, 0, 0
  for rank = 0, shape.ranks - 1 do
    if used[rank] < shape.first_slot[rank + 1] - shape.first_slot[rank] then
      local double, there = marks[rank] == mark and 1 or 0, copies[shape.rank_node[rank]]
      if double < best_double or double == best_double
        and (there < best_copies or there == best_copies and work[rank] < best_work) then
        best, best_double, best_copies, best_work = rank, double, there, work[rank]
      end
    end
  end
  return best
end

--- Marks the ranks that hold an expert with a number that no other spread uses.
local function mark_holders(self, expert)
  self.spreads = self.spreads + 1
  for rank = 0, self.copies[expert] and self.shape.ranks - 1 or -1 do
    if self:holds(rank, expert) then self.mark[rank] = self.spreads end
  end
  return self.spreads
end

--- Gives an expert count replicas: spread over nodes first, then on the least loaded ranks; twice
-- on a rank only where nothing else is free.
-- : integer, integer -> LayoutBuilder
function LayoutBuilder:spread(expert, count)
  check_id('expert', expert, self.shape.experts)
  local mark = mark_holders(self, expert)
  for i = 1, count or 1 do
    local copies = self.copies[expert]
    local rank = choose_new_node(self, copies) or copies and choose_any(self, copies, mark)
    if not rank then
      lib.raise('LAYOUT', ('layout: replica %d of expert %d does not fit; all %d slots are taken')
        :format(i, expert, self.shape.slots), 2)
    end
    put(self, rank, expert)
    self.mark[rank] = mark
  end
  return self
end

--- Swaps the experts of two slots: (rank, slot) with (other rank, other slot).
-- : integer, integer, integer, integer -> LayoutBuilder
function LayoutBuilder:swap(rank, slot, other_rank, other_slot)
  local shape = self.shape
  for _, at in ipairs { { rank, slot }, { other_rank, other_slot } } do
    if not self:at(at[1], at[2]) then
      lib.raise('LAYOUT', ('layout: slot %d of rank %d is empty'):format(at[2], at[1]), 2)
    end
  end
  local a, b = shape.first_slot[rank] + slot, shape.first_slot[other_rank] + other_slot
  self.expert_of[a], self.expert_of[b] = self.expert_of[b], self.expert_of[a]
  return self
end

--- Puts another expert into a slot that is taken.
-- : integer, integer, integer -> LayoutBuilder
function LayoutBuilder:replace(rank, slot, expert)
  check_id('expert', expert, self.shape.experts)
  if not self:at(rank, slot) then
    lib.raise('LAYOUT', ('layout: slot %d of rank %d is empty'):format(slot, rank), 2)
  end
  self.expert_of[self.shape.first_slot[rank] + slot] = expert
  return self
end

--- Replicas of every expert: int32_t[experts].
-- : -> int32_t[experts]
function LayoutBuilder:counts()
  local counts = ints(self.shape.experts)
  for slot = 0, self.shape.slots - 1 do
    local expert = self.expert_of[slot]
    if expert >= 0 then counts[expert] = counts[expert] + 1 end
  end
  return counts
end

--- ---- what a plan hook may answer --------------------------------------------------------------

local function from_list(shape, list, out)
  if #list ~= shape.slots then
    lib.raise('LAYOUT', ('layout: %d slots in the list; expected are %d'):format(#list,
      shape.slots))
  end
  for rank = 0, shape.ranks - 1 do
    for slot = shape.first_slot[rank], shape.first_slot[rank + 1] - 1 do
      local expert = list[slot + 1]
      if type(expert) ~= 'number' or expert % 1 ~= 0 then
        lib.raise('LAYOUT', ('layout: slot %d of rank %d holds %s; expected is an expert, 0 to %d')
          :format(slot - shape.first_slot[rank], rank, tostring(expert), shape.experts - 1))
      end
      out[slot] = math.max(math.min(expert, 2 ^ 30), -1)
    end
  end
end

--- Per-rank lists to one list of slots.
local function flatten(shape, ranks)
  local list = {}
  for rank = 0, shape.ranks - 1 do
    local experts = ranks[rank + 1]
    if type(experts) ~= 'table' or #experts ~= shape:slots_of(rank) then
      lib.raise('LAYOUT', ('layout: rank %d has %s; expected are %d slots'):format(rank,
        type(experts) == 'table' and #experts .. ' slots' or tostring(experts),
        shape:slots_of(rank)))
    end
    for _, expert in ipairs(experts) do list[#list + 1] = expert end
  end
  return list
end

local function from_builder(shape, answer, out)
  for rank = 0, shape.ranks - 1 do
    if answer:free(rank) > 0 then
      lib.raise('LAYOUT', ('layout: slot %d of rank %d is empty; every slot needs an expert')
        :format(answer.used[rank], rank))
    end
  end
  ffi.copy(out, answer.expert_of, shape.slots * 4)
end

local function from_layout(shape, ptr, out)
  local slots = C.neap_topology_slots(C.neap_layout_topology(ptr))
  if slots ~= shape.slots then
    lib.raise('LAYOUT', ('layout: it has %d slots; expected are %d'):format(slots, shape.slots))
  end
  ffi.copy(out, C.neap_layout_experts(ptr), shape.slots * 4)
end

--- Writes a hook's answer to out[slots]: a layout builder, a layout of the engine, a list of the
-- experts of all slots, or a list of such lists, one per rank. Raises LAYOUT; what is written is
-- checked for types here, and as a layout by the engine.
-- : Topology, layout, int32_t[slots]
function layout_builder.read(shape, answer, out)
  if layout_builder.is_builder(answer) then
    from_builder(shape, answer, out)
  elseif type(answer) == 'table' and ffi.istype('neap_layout *', answer.ptr) then
    from_layout(shape, answer.ptr, out)
  elseif type(answer) == 'table' then
    from_list(shape, type(answer[1]) == 'table' and flatten(shape, answer) or answer, out)
  else
    lib.raise('LAYOUT', ('layout: the answer is %s; expected a layout (to keep the active one, '
      .. 'return ctx.previous)'):format(answer == nil and 'nil' or 'a ' .. type(answer)))
  end
end

return layout_builder

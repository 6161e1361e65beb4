-- SPDX-License-Identifier: Apache-2.0

--- A split under construction, for split hooks: how many tokens of every source rank go to every
-- slot. ctx:split() is empty, ctx:split 'lite' starts from a built-in rule.

local lib = require 'neap.base.lib'

local ffi = lib.ffi

local split_builder = {}

local SplitBuilder = {}
SplitBuilder.__index = SplitBuilder

--- All 0. layout: builder of the active one; load: the exact counts; ptr: memory to use, or nil.
-- : Topology, LayoutBuilder, Load, int64_t[ranks * slots]? -> SplitBuilder
function split_builder.open(shape, layout, load, ptr)
  local count = shape.ranks * shape.slots
  if ptr then ffi.fill(ptr, count * 8) end
  return setmetatable({
    shape = shape, layout = layout, load = load, ptr = ptr or ffi.new('int64_t[?]', count),
  }, SplitBuilder)
end

--- Whether a value is a split builder.
-- : any -> boolean
function split_builder.is_builder(value)
  return getmetatable(value) == SplitBuilder
end

local function index(self, source, rank, slot)
  local shape = self.shape
  if not (source >= 0 and source < shape.ranks) then
    lib.raise('SPLIT', ('split: source %s; allowed are 0 to %d'):format(source, shape.ranks - 1), 3)
  end
  if not (slot >= 0 and slot < shape:slots_of(rank)) then
    lib.raise('SPLIT', ('split: slot %s of rank %d; allowed are 0 to %d'):format(slot, rank,
      shape:slots_of(rank) - 1), 3)
  end
  return source * shape.slots + shape.first_slot[rank] + slot
end

--- Sends more (or, below 0, fewer) tokens of a source rank to a slot of a rank.
-- : integer, integer, integer, integer -> SplitBuilder
function SplitBuilder:send(source, rank, slot, tokens)
  if type(tokens) ~= 'number' or tokens % 1 ~= 0 then
    lib.raise('SPLIT', ('split: %s tokens from rank %s; they must be whole'):format(
      tostring(tokens), tostring(source)), 2)
  end
  local i = index(self, source, rank, slot)
  self.ptr[i] = self.ptr[i] + tokens
  return self
end

--- Tokens of a source rank to a slot of a rank.
-- : integer, integer, integer -> integer
function SplitBuilder:at(source, rank, slot)
  return tonumber(self.ptr[index(self, source, rank, slot)])
end

--- Slots that hold an expert, as a list of { rank, slot }.
-- : integer -> list of { integer, integer }
function SplitBuilder:replicas(expert)
  local list, shape = {}, self.shape
  for rank = 0, shape.ranks - 1 do
    for slot = shape.first_slot[rank], shape.first_slot[rank + 1] - 1 do
      if self.layout.expert_of[slot] == expert then
        list[#list + 1] = { rank, slot - shape.first_slot[rank] }
      end
    end
  end
  return list
end

--- Overwrites all with what a built-in rule says.
-- : table, string
function SplitBuilder:fill(tools, rule)
  local split = tools:split(rule):compute(tools.scratch:set(self.layout.expert_of), self.load)
  for source = 0, self.shape.ranks - 1 do
    split:row(source, self.ptr + source * self.shape.slots)
  end
end

--- Writes a hook's answer to out[ranks * slots]. Raises SPLIT.
-- : Topology, SplitBuilder, int64_t[ranks * slots]
function split_builder.read(shape, answer, out)
  if not split_builder.is_builder(answer) then
    lib.raise('SPLIT', ("split: the answer is %s; expected a split (ctx:split() or a rule's name)")
      :format(answer == nil and 'nil' or 'a ' .. type(answer)))
  end
  ffi.copy(out, answer.ptr, shape.ranks * shape.slots * 8)
end

return split_builder

-- SPDX-License-Identifier: Apache-2.0

--- Loads and their history, as policies see them. A load is tokens by source rank and expert,
-- [ranks][experts], doubles in C memory; ids start at 0. A history is the ring of the last loads of
-- one layer.

local lib = require 'neap.base.lib'

local ffi = lib.ffi
local doubles = ffi.typeof 'double[?]'

local history = {}

--- ---- load -----------------------------------------------------------------------------------

local Load = {}
Load.__index = Load

--- A load of zeros.
-- : integer, integer -> Load
function history.load(ranks, experts)
  return setmetatable({
    ranks = ranks, experts = experts, ptr = doubles(ranks * experts),
  }, Load)
end

--- Whether a value is a load.
-- : any -> boolean
function history.is_load(value)
  return getmetatable(value) == Load
end

--- Copies a matrix of any number type, row-major [ranks][experts]; returns the load.
-- : matrix -> Load
function Load:set(matrix)
  for i = 0, self.ranks * self.experts - 1 do
    self.ptr[i] = tonumber(matrix[i])
  end
  return self
end

--- Tokens of a source rank for an expert.
-- : integer, integer -> number
function Load:at(rank, expert)
  if not (rank >= 0 and rank < self.ranks and expert >= 0 and expert < self.experts) then
    lib.raise('ARGUMENT', ('load: no rank %s and expert %s; ranks are 0 to %d, experts 0 to %d')
      :format(rank, expert, self.ranks - 1, self.experts - 1), 2)
  end
  return self.ptr[rank * self.experts + expert]
end

--- Tokens of every expert from all ranks: double[experts], read as v[expert].
-- : -> double[experts]
function Load:by_expert()
  local sum, ptr, experts = doubles(self.experts), self.ptr, self.experts
  for r = 0, self.ranks - 1 do
    for e = 0, experts - 1 do
      sum[e] = sum[e] + ptr[r * experts + e]
    end
  end
  return sum
end

--- Tokens of every source rank: double[ranks].
-- : -> double[ranks]
function Load:by_rank()
  local sum, ptr, experts = doubles(self.ranks), self.ptr, self.experts
  for r = 0, self.ranks - 1 do
    for e = 0, experts - 1 do
      sum[r] = sum[r] + ptr[r * experts + e]
    end
  end
  return sum
end

--- Tokens of all ranks for all experts.
-- : -> number
function Load:total()
  local sum = 0
  for i = 0, self.ranks * self.experts - 1 do
    sum = sum + self.ptr[i]
  end
  return sum
end

--- A new load, a * self + b * other; without other, a * self.
-- : number, Load?, number? -> Load
function Load:scale(a, other, b)
  local out = history.load(self.ranks, self.experts)
  for i = 0, self.ranks * self.experts - 1 do
    out.ptr[i] = a * self.ptr[i] + (other and b * other.ptr[i] or 0)
  end
  return out
end

--- (1 - weight) * self + weight * other: exponential smoothing in one call.
-- : Load, number -> Load
function Load:mix(other, weight)
  return self:scale(1 - weight, other, weight)
end

--- ---- history ---------------------------------------------------------------------------------

local History = {}
History.__index = History

--- keep: how many loads stay.
-- : integer, integer, integer -> History
function history.open(ranks, experts, keep)
  return setmetatable({ ranks = ranks, experts = experts, keep = keep, count = 0, ring = {} },
    History)
end

--- Adds the load of one more step, a matrix of any number type.
-- : matrix
function History:push(matrix)
  local slot = self.count % self.keep + 1
  local load = self.ring[slot] or history.load(self.ranks, self.experts)
  self.ring[slot] = load:set(matrix)
  self.count = self.count + 1
end

--- How many loads can be seen: at most keep.
-- : -> integer
function History:len()
  return math.min(self.count, self.keep)
end

local function at(self, back)
  return self.ring[(self.count - back) % self.keep + 1]
end

--- The load of i steps ago: 1 (the default) is the newest, len() the oldest. A copy.
-- : integer? -> Load
function History:last(i)
  i = i or 1
  if not (i >= 1 and i <= self:len()) or i % 1 ~= 0 then
    lib.raise('ARGUMENT', ('history:last(%s): allowed are 1 to %d'):format(i, self:len()), 2)
  end
  return history.load(self.ranks, self.experts):set(at(self, i).ptr)
end

--- The newest loads, as many as there are up to window, oldest first. Not copies, so only to be
-- read, and only until the next push.
-- : integer -> list of Load
function History:recent(window)
  local list, count = {}, math.min(math.floor(window), self:len())
  for i = 1, count do list[i] = at(self, count - i + 1) end
  return list
end

--- Sum of the newest loads, as many as there are up to window (default: all that are kept).
-- : integer? -> Load
function History:sum(window)
  window = window or self.keep
  if not (type(window) == 'number' and window >= 1) then
    lib.raise('ARGUMENT', ('history: a window of %s steps; it must be at least 1'):format(
      tostring(window)), 2)
  end
  local out = history.load(self.ranks, self.experts)
  for back = 1, math.min(math.floor(window), self:len()) do
    local load = at(self, back).ptr
    for i = 0, self.ranks * self.experts - 1 do
      out.ptr[i] = out.ptr[i] + load[i]
    end
  end
  return out
end

--- Mean of the newest loads.
-- : integer? -> Load
function History:mean(window)
  local sum = self:sum(window)
  local count = math.min(math.floor(window or self.keep), self:len())
  return count > 1 and sum:scale(1 / count) or sum
end

return history

-- SPDX-License-Identifier: Apache-2.0

--- How many replicas each expert gets: one each, then slot by slot to the expert with the most work
-- a replica (the greedy rule of EPLB and LAER). No expert gets more replicas than there are ranks,
-- unless all of them have that many.

local lib = require 'neap.base.lib'

local ints, doubles = lib.ffi.typeof 'int32_t[?]', lib.ffi.typeof 'double[?]'

--- Moves the top of a max-heap of experts down to its place. key[expert]; ties go to the lower id.
local function sift_down(heap, size, key, at)
  local expert = heap[at]
  while true do
    local child = 2 * at + 1
    if child >= size then break end
    local right = child + 1
    if right < size then
      local a, b = heap[child], heap[right]
      if key[b] > key[a] or key[b] == key[a] and b < a then child = right end
    end
    local other = heap[child]
    if key[expert] > key[other] or key[expert] == key[other] and expert < other then break end
    heap[at] = other
    at = child
  end
  heap[at] = expert
end

local function build_heap(experts, key)
  local heap = ints(experts)
  for e = 0, experts - 1 do heap[e] = e end
  for at = math.floor(experts / 2) - 1, 0, -1 do sift_down(heap, experts, key, at) end
  return heap
end

--- work[experts] -> counts int32_t[experts], summing to the topology's slots.
local function count(shape, work)
  local experts, left = shape.experts, shape.slots - shape.experts
  local counts, key = ints(experts), doubles(experts)
  for e = 0, experts - 1 do
    counts[e], key[e] = 1, work[e]
  end
  local heap, limit = build_heap(experts, key), shape.ranks
  while left > 0 do
    local top = heap[0]
    if key[top] < 0 then -- every expert is at the limit
      limit = limit + shape.ranks
      for e = 0, experts - 1 do key[e] = work[e] / counts[e] end
      heap = build_heap(experts, key)
      top = heap[0]
    end
    if counts[top] < limit then
      counts[top] = counts[top] + 1
      left = left - 1
    end
    key[top] = counts[top] < limit and work[top] / counts[top] or -1
    sift_down(heap, experts, key, 0)
  end
  return counts
end

return { count = count }

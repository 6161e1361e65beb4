-- SPDX-License-Identifier: Apache-2.0

--- Which elements of the arrays of a checkpoint its ranks hold: of each array a range, cut over all
-- ranks (neap_cut), or, where experts are resident, over the homes of the expert.
--
-- An array is { sizes = of its parts (experts), granule =, residence = nil or { run = ranks of a
-- run of homes, first = { of every rank, the first expert at home there }, past = { the one after
-- the last } } }.

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local cut = {}

local begin, ends = ffi.new 'int64_t[1]', ffi.new 'int64_t[1]'

--- Where experts are at home in a topology, as an array has it; nil where they have no homes.
function cut.residence(topology)
  if not topology.homes then return nil end
  local residence = { run = topology.homes, first = {}, past = {} }
  for rank = 0, topology.ranks - 1 do
    residence.first[rank + 1], residence.past[rank + 1] = topology:home(rank)
  end
  return residence
end

--- The ranges of a rank of so many: int64_t[2 * parts], the first element of each part's range and
-- the one after its last; and how many elements they are together.
function cut.of(array, rank, ranks)
  local list, sum, residence = ffi.new('int64_t[?]', 2 * #array.sizes), 0, array.residence
  local first, past = 0, #array.sizes
  if residence then
    first, past = residence.first[rank + 1], residence.past[rank + 1]
    rank, ranks = math.floor(rank / residence.run), ranks / residence.run
  end
  for i = first, past - 1 do
    C.neap_cut(array.sizes[i + 1], array.granule, ranks, rank, begin, ends)
    list[2 * i], list[2 * i + 1] = begin[0], ends[0]
    sum = sum + tonumber(ends[0] - begin[0])
  end
  return list, sum
end

--- All elements, as one of one rank has them.
function cut.whole(array)
  return cut.of({ sizes = array.sizes, granule = array.granule }, 0, 1)
end

--- Whether two ranks' ranges of so many parts have an element in common.
function cut.meets(a, b, parts)
  for i = 0, parts - 1 do
    if math.max(tonumber(a[2 * i]), tonumber(b[2 * i]))
        < math.min(tonumber(a[2 * i + 1]), tonumber(b[2 * i + 1])) then
      return true
    end
  end
  return false
end

return cut

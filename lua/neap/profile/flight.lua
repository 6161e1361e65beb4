-- SPDX-License-Identifier: Apache-2.0

--- Flight recorders: files that say what every rank has called last, and who is the odd one out.
--
--   local ranks = flight.read { 'neap-flight-17-rank0.json', 'neap-flight-18-rank1.json' }
--   print(flight.text(flight.judge(ranks)))
--
-- A communicator has the same number on all ranks, and its operations are counted from 0; so where
-- ranks wait in an operation, those whose last one of that communicator has a lower number are
-- missing.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'

local flight = {}

local FORMAT = 'neap flight recorder'

local function read_file(path)
  local file, why = io.open(path)
  if not file then errors.plain('%s', why) end
  local text = file:read '*a'
  file:close()
  local ok, document = pcall(json.decode, text)
  if not ok or type(document) ~= 'table' or document.format ~= FORMAT
    or type(document.ranks) ~= 'table' then
    error(setmetatable({ code = 'FORMAT', message = path .. ' is no flight recorder', where = '' },
      require('neap.base.lib').Error), 0)
  end
  return document
end

--- What the files hold: { ranks = how many the job has, [rank] = { operations, reason, host } }.
function flight.read(paths)
  local found = { ranks = 0 }
  for _, path in ipairs(paths) do
    local document = read_file(path)
    for _, one in ipairs(document.ranks) do
      found[one.rank] = { operations = one.operations, reason = document.reason,
        host = document.host }
      found.ranks = math.max(found.ranks, one.ranks)
    end
  end
  return found
end

--- Of a rank: number of the last operation by communicator, and the oldest that is under way.
local function position(operations)
  local reached, oldest = {}, nil
  for _, o in ipairs(operations) do
    reached[o.communicator] = math.max(reached[o.communicator] or -1, o.number)
    if o.state == 'running' and (not oldest or o.begun_ago > oldest.begun_ago) then oldest = o end
  end
  return { reached = reached, oldest = oldest, last = operations[#operations] }
end

--- The operation that most ranks are in, of equals the one that is the oldest.
local function most_waited_for(positions, ranks)
  local count, best = {}, nil
  for rank = 0, ranks - 1 do
    local o = positions[rank] and positions[rank].oldest
    if o then
      local key = o.communicator .. ' ' .. o.number
      count[key] = count[key] or { operation = o, ranks = {} }
      table.insert(count[key].ranks, rank)
      local entry = count[key]
      if not best or #entry.ranks > #best.ranks
        or #entry.ranks == #best.ranks and o.begun_ago > best.operation.begun_ago then
        best = entry
      end
    end
  end
  return best
end

--- Who is missing: { operation, waiting = ranks, missing = { { rank, oldest, last, known } },
-- other = ranks that call something else as that operation }; nil if nobody waits.
function flight.judge(found)
  local positions = {}
  for rank = 0, found.ranks - 1 do
    positions[rank] = found[rank] and position(found[rank].operations)
  end
  local best = most_waited_for(positions, found.ranks)
  if not best then return nil end
  local result = { operation = best.operation, waiting = best.ranks, missing = {}, ranks = found }
  for rank = 0, found.ranks - 1 do
    local seen = positions[rank]
    local reached = seen and seen.reached[best.operation.communicator] or -1
    if not seen or reached < best.operation.number then
      table.insert(result.missing, { rank = rank, known = seen ~= nil,
        oldest = seen and seen.oldest, last = seen and seen.last })
    end
  end
  return result
end

local function call_text(o)
  local where = { ('operation %d of communicator %d'):format(o.number, o.communicator) }
  if o.step >= 0 then where[#where + 1] = 'step ' .. o.step end
  if o.layer >= 0 then where[#where + 1] = 'layer ' .. o.layer end
  if o.phase ~= '' then where[#where + 1] = 'phase ' .. o.phase end
  return ('%s (%s)'):format(o.call, table.concat(where, ', '))
end

local function state_of(one)
  if not one.known then return 'there is no file of it' end
  if one.oldest then
    return ('it has been for %.1f s in %s'):format(one.oldest.begun_ago, call_text(one.oldest))
  end
  if not one.last then return 'it has called nothing' end
  return ('it has called nothing for %.1f s, since %s'):format(one.last.ended_ago
    or one.last.begun_ago, call_text(one.last))
end

--- The judgement in lines.
function flight.text(result)
  if not result then return 'no rank waits in an operation' end
  local lines = { ('%s has been waited in for %.1f s by rank%s %s'):format(
    call_text(result.operation), result.operation.begun_ago, #result.waiting == 1 and '' or 's',
    table.concat(result.waiting, ', ')) }
  for _, one in ipairs(result.missing) do
    lines[#lines + 1] = ('rank %d has not reached it: %s'):format(one.rank, state_of(one))
  end
  if #result.missing == 0 then lines[#lines + 1] = 'all ranks have reached it' end
  return table.concat(lines, '\n')
end

return flight

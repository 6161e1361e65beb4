-- SPDX-License-Identifier: Apache-2.0

--- What tables and charts call policies, and whether a row says something of its policy.
--
--   names.of(rows)      -- rows, or what has a row's policy, name, plans_on and in_force

local errors = require 'neap.base.errors'

local names = {}

local MARKS = { current = ' (current counts)', both = ' (late slots)', known = ' (known loads)' }

--- File or name of a policy's text, and what follows it.
local function path_of(policy)
  local path, rest = policy:match '^(.-%.lua)(.*)$'
  if path then return path, rest end
  return policy:match '^([^+:]*)(.*)$'
end

--- The last count parts of a path.
local function tail(path, count)
  local parts = {}
  for part in path:gmatch '[^/]+' do parts[#parts + 1] = part end
  return table.concat(parts, '/', math.max(1, #parts - count + 1))
end

--- What rows call their policy without looking at the others.
local function plain_name(row)
  if row.name then return row.name end
  local path, rest = path_of(row.policy)
  return tail(path, 1) .. rest
end

--- The shortest end of a policy's path that none of the others' paths has.
local function distinct_name(policy, others)
  local path, rest = path_of(policy)
  for count = 1, select(2, path:gsub('/+', '')) + 1 do
    local name, alone = tail(path, count), true
    for _, other in ipairs(others) do
      alone = alone and (tail(path_of(other), count) ~= name or path_of(other) == path)
    end
    if alone then return name .. rest end
  end
  return policy
end

--- Names of rows, or of what has their policy and name: what the policies call themselves; files of
-- the same name go by the shortest end of their path that tells them apart.
function names.plain(rows)
  local list, same = {}, {}
  for _, row in ipairs(rows) do
    local name = plain_name(row)
    same[name] = same[name] or {}
    table.insert(same[name], row.policy)
  end
  for i, row in ipairs(rows) do
    local name, differ = plain_name(row), false
    for _, other in ipairs(same[name]) do differ = differ or other ~= row.policy end
    list[i] = differ and distinct_name(row.policy, same[name]) or name
  end
  return list
end

--- A policy's name, marked by what it plans on where that is not the history alone, and by how much
-- of the row is its doing where its answers failed.
function names.mark(name, row)
  local share = row.in_force
  return name .. (MARKS[row.plans_on] or '')
    .. (row.fits == 'no' and ' (does not fit)' or '') .. (not share and ''
    or share == 0 and ' (never in force)' or (' (in force: %.3g %%)'):format(100 * share))
end

--- Names of rows, marked.
function names.of(rows)
  local list = names.plain(rows)
  for i, row in ipairs(rows) do list[i] = names.mark(list[i], row) end
  return list
end

-- Share from which on a row counts as its policy's.
local MOSTLY = 0.99

--- Whether a row says something of its policy, rather than of what took its place, and of steps
-- that the ranks have memory for.
function names.counts(row)
  return (row.in_force or 1) >= MOSTLY and row.fits ~= 'no'
end

--- Exit status of a command with these rows: 3, and a line on stderr, if a policy was never in
-- force; else 0.
function names.status(rows)
  local status = 0
  for _, row in ipairs(rows) do
    if row.in_force == 0 then
      io.stderr:write(('neap: policy %s was never in force: its row shows the static layout, or '
        .. 'the split minimax\n'):format(row.policy))
      status = errors.FAULTY
    end
  end
  return status
end

return names

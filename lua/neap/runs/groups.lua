-- SPDX-License-Identifier: Apache-2.0

--- Results of the store by the value of one of their runs' parameters (--by hidden).

local compare = require 'neap.runs.compare'
local errors = require 'neap.base.errors'
local kept = require 'neap.runs.kept'
local lib = require 'neap.base.lib'
local params = require 'neap.base.params'

local groups = {}

-- Columns of a run that are no parameters, but that runs can differ in.
local COLUMNS = { 'kind', 'script', 'ranks', 'node_size', 'transport', 'device', 'engine',
  'git_commit', 'host', 'sweep', 'seed' }

--- All that a run can be grouped by: name = value.
local function facts_of(run)
  local facts = {}
  for _, name in ipairs(COLUMNS) do facts[name] = run[name] end
  for name, value in pairs(kept.facts(run.parameters, ('run %d: parameters'):format(run.id)) or {})
  do
    facts[name] = value
  end
  return facts
end

--- The values of a parameter (typed with dashes or underscores) that runs (rows) have: { [id] =
-- text }; '-' for one without it. Raises USAGE if no run has it.
function groups.values(runs, name)
  local wanted, values, known, found = name:gsub('-', '_'), {}, {}, false
  for _, run in ipairs(runs) do
    local facts = facts_of(run)
    for key in pairs(facts) do known[key] = true end
    values[run.id] = facts[wanted] == nil and '-' or params.show(facts[wanted])
    found = found or facts[wanted] ~= nil
  end
  if not found then
    local names = lib.sorted_keys(known)
    errors.usage("--by is '%s'%s; these runs have: %s", name, lib.hint(wanted, names),
      table.concat(names, ', '))
  end
  return values
end

--- Of results (compare.results): the rows of their runs.
local function runs_of(runs, results)
  local rows, seen = {}, {}
  for _, result in ipairs(results) do
    if not seen[result.run] then
      rows[#rows + 1] = runs:rows('SELECT * FROM runs WHERE id = ?', result.run)[1]
    end
    seen[result.run] = true
  end
  return rows
end

--- Rows by their value, a list of { value =, rows = }: numbers ascending, then texts.
function groups.of(rows, value_of)
  local by_value = {}
  for _, row in ipairs(rows) do
    local value = value_of(row)
    by_value[value] = by_value[value] or {}
    table.insert(by_value[value], row)
  end
  local list = {}
  for _, value in ipairs(lib.sorted_keys(by_value)) do
    list[#list + 1] = { value = value, rows = by_value[value] }
  end
  table.sort(list, function(a, b)
    local x, y = tonumber(a.value), tonumber(b.value)
    if x and y then return x < y end
    if x or y then return x ~= nil end
    return a.value < b.value
  end)
  return list
end

--- Compares results (compare.results) within each value of a parameter: a list of documents as
-- compare.policies makes them, with by (the parameter) and group (its value). A baseline that a
-- group has no results of is chosen anew there.
function groups.compare(runs, results, name, options)
  local values, documents = groups.values(runs_of(runs, results), name), {}
  for i, group in ipairs(groups.of(results, function(row) return values[row.run] end)) do
    local own, there = {}, false
    for key, value in pairs(options) do own[key] = value end
    for _, row in ipairs(group.rows) do
      there = there or row.policy == options.baseline or row.text == options.baseline
    end
    if not there then own.baseline = nil end
    documents[i] = compare.policies(group.rows, own)
    documents[i].by, documents[i].group = name, group.value
  end
  return documents
end

return groups

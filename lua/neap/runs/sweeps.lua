-- SPDX-License-Identifier: Apache-2.0

--- Sweeps as the store has them: which cells are done, how long the others take, which are best.
--
--   local found = sweeps.read(runs, 'policies')
--   found.cells[1].state, found.count.done, found.left
--   for _, row in ipairs(sweeps.best(runs, found)) do … row.label, row.values.imbalance … end

local compare = require 'neap.runs.compare'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'

local C = lib.C

local sweeps = {}

--- What runs of one key (rows of Store:runs, oldest first) say of it: 'done', 'running', 'failed'
-- or 'todo', and the row that says so.
-- : list of table -> string, table?
function sweeps.state(rows)
  local found, last = {}, rows[#rows]
  for _, row in ipairs(rows) do found[row.state] = row end
  if found.done then return 'done', found.done end
  if found.running then return 'running', found.running end
  if last and last.state == 'failed' then return 'failed', last end
  return 'todo', last
end

--- Names of all sweeps, the last one that was begun first.
-- : store -> list of string
function sweeps.names(runs)
  local list = {}
  for i, row in ipairs(runs:rows [[SELECT name, (SELECT max(id) FROM runs r WHERE r.sweep = s.name)
    AS last FROM (SELECT DISTINCT name FROM sweeps) s ORDER BY last DESC, name]]) do
    list[i] = row.name
  end
  return list
end

--- Words that tell cells apart: those of a cell that not all have.
local function label_cells(cells)
  local count = {}
  for _, cell in ipairs(cells) do
    cell.words = {}
    for word in cell.arguments:gmatch '%S+' do
      cell.words[#cell.words + 1] = word
      count[word] = (count[word] or 0) + 1
    end
  end
  for _, cell in ipairs(cells) do
    local own, unseeded = {}, {}
    for _, word in ipairs(cell.words) do
      if count[word] < #cells then
        own[#own + 1] = word:gsub('^%-%-', '')
        if not word:match '^%-%-seed=' then unseeded[#unseeded + 1] = own[#own] end
      end
    end
    cell.label = #own > 0 and table.concat(own, ' ') or ('no. %d'):format(cell.number)
    cell.group = table.concat(unseeded, ' ')
  end
end

--- Mean seconds of the cells that are done, of an earlier sweep too; nil where none is.
local function mean_time(cells)
  local sum, count = 0, 0
  for _, cell in ipairs(cells) do
    if cell.state == 'done' and cell.run.ended then
      sum, count = sum + cell.run.ended - cell.run.started, count + 1
    end
  end
  return count > 0 and sum / count or nil
end

--- Seconds until the rest is done, with as many at a time as now; nil: not known, or none goes on.
local function time_left(cells, count)
  local mean, now = mean_time(cells), C.neap_time()
  if not mean or count.running == 0 then return nil end
  local sum = count.todo * mean
  for _, cell in ipairs(cells) do
    if cell.state == 'running' then sum = sum + math.max(0, mean - (now - cell.run.started)) end
  end
  return sum / count.running
end

--- A sweep: name, cells (list of { number, arguments, state, run = row or nil, label = the words
-- that not all have, group = those but the seed }), count (by state), left (seconds, or nil); nil
-- if the store has none of that name.
-- : store, string -> table?
function sweeps.read(runs, name)
  local cells = runs:rows('SELECT number, key, arguments FROM sweeps WHERE name = ? '
    .. 'ORDER BY number', name)
  if #cells == 0 then return nil end
  local by_key, count = {}, { done = 0, failed = 0, running = 0, todo = 0 }
  for _, row in ipairs(runs:runs('key IN (SELECT key FROM sweeps WHERE name = ?)', name)) do
    by_key[row.key] = by_key[row.key] or {}
    table.insert(by_key[row.key], row)
  end
  for _, cell in ipairs(cells) do
    cell.state, cell.run = sweeps.state(by_key[cell.key] or {})
    count[cell.state] = count[cell.state] + 1
  end
  label_cells(cells)
  return { name = name, cells = cells, count = count, left = time_left(cells, count) }
end

--- ---- the best ----------------------------------------------------------------------------------

local function add(group, row)
  for name, value in pairs(metrics.values(row.summary)) do
    local sum = group.sums[name] or { sum = 0, count = 0 }
    sum.sum, sum.count = sum.sum + value, sum.count + 1
    group.sums[name] = sum
  end
  group.count = group.count + 1
end

--- Metrics that rows have and that a comparison shows.
local function shown_metrics(list)
  local shown = {}
  for _, metric in ipairs(metrics.list) do
    local there = false
    for _, group in ipairs(list) do there = there or group.values[metric.name] ~= nil end
    if metric.compared and there then shown[#shown + 1] = metric end
  end
  return shown
end

--- What is done of a sweep (sweeps.read), by policy and all parameters but the seed: label, count
-- (of results) and values (means by metric), the best balanced first; second: the metrics to show.
-- Rows that say nothing of their policy are left out.
-- : store, table -> list of table, list of metric
function sweeps.best(runs, found)
  local of_run, groups, list = {}, {}, {}
  for _, cell in ipairs(found.cells) do
    if cell.run then of_run[cell.run.id] = cell end
  end
  for _, row in ipairs(compare.results(runs, { sweep = found.name })) do
    local cell = of_run[row.run]
    if cell and names.counts(row.summary) then
      local key = row.policy .. '\n' .. cell.group
      if not groups[key] then
        groups[key] = { policy = row.policy, label = cell.group, count = 0, sums = {}, values = {} }
        list[#list + 1] = groups[key]
      end
      add(groups[key], row)
    end
  end
  for i, group in ipairs(list) do
    group.place = i
    for name, sum in pairs(group.sums) do group.values[name] = sum.sum / sum.count end
  end
  table.sort(list, function(a, b)
    local x, y = a.values.imbalance or math.huge, b.values.imbalance or math.huge
    return x < y or x == y and a.place < b.place
  end)
  return list, shown_metrics(list)
end

return sweeps

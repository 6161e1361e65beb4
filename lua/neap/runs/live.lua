-- SPDX-License-Identifier: Apache-2.0

--- How far runs of the store are: what neap ui and neap watch show of those that go on.
--
--   for _, run in ipairs(live.list(runs, { query = 'laer running' })) do … end
--   local done, total, left = live.progress(runs, run)
--   for _, result in ipairs(live.results(runs, run)) do … result.last.loss … end
-- Everything here only reads.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local marks = require 'neap.runs.marks'
local metrics = require 'neap.runs.metrics'
local store = require 'neap.runs.store'

local live = {}

--- Opens a store that exists for reading; a statement that would change it fails. args: store.
-- Raises USAGE, SYSTEM and FORMAT.
-- : table -> store
function live.open(args)
  local runs = store.existing(args)
  runs:rows 'PRAGMA query_only = 1'
  return runs
end

local function policies_of(runs)
  local by_run = {}
  for _, row in ipairs(runs:rows 'SELECT run, policy FROM results ORDER BY id') do
    by_run[row.run] = by_run[row.run] or {}
    table.insert(by_run[row.run], row.policy)
  end
  return by_run
end

--- All that a query's words are looked for in.
local function text_of(run)
  return table.concat({ 'run ' .. run.id, run.state, run.kind, table.concat(run.policies, ' '),
    run.sweep or '', run.tags and table.concat(run.tags, ' ') or '', run.note or '',
    run.command or '' }, ' '):lower()
end

local function matches(run, query)
  local text = text_of(run)
  for word in query:lower():gmatch '%S+' do
    if not text:find(word, 1, true) then return false end
  end
  return true
end

--- Runs, newest first, with state, policies, tags and note; options: query (words that each must
-- occur in what a run is; nil: all), most (so many at most). Second: how many there are in all.
-- : store, table? -> table, number
function live.list(runs, options)
  options = options or {}
  local all, policies, list = runs:runs(), policies_of(runs), {}
  marks.add(runs, all)
  for i = #all, 1, -1 do
    local run = all[i]
    run.policies = policies[run.id] or {}
    if matches(run, options.query or '') then list[#list + 1] = run end
  end
  local count = #list
  for i = count, (options.most or count) + 1, -1 do list[i] = nil end
  return list, count
end

--- A run with its state, policies and marks, or nil.
-- : store, number -> table?
function live.find(runs, id)
  local run = runs:runs('id = ?', id)[1]
  if not run then return nil end
  run.policies = {}
  for i, row in ipairs(runs:rows('SELECT policy FROM results WHERE run = ? ORDER BY id', id)) do
    run.policies[i] = row.policy
  end
  marks.add(runs, { run })
  return run
end

--- Steps that a run will have taken in all, as its parameters say; nil where they do not.
local function steps_of(run)
  local ok, parameters = pcall(json.decode, run.parameters or '')
  if not ok or type(parameters) ~= 'table' then return nil end
  local steps, policies = parameters.steps, parameters.policies
  if type(steps) ~= 'number' or type(policies) ~= 'table' or #policies == 0 then return nil end
  return steps * #policies
end

--- Steps of all policies that are done, how many there will be (nil: not known), and the seconds
-- that the others take at the rate of these (nil: not known, or the run is over). Their time is
-- what the clock says or what they say themselves, whichever is more: a run that has been resumed
-- has steps of before it began.
-- : store, table -> number, number?, number?
function live.progress(runs, run)
  local found = runs:rows('SELECT count(*) AS n, sum(seconds) AS s FROM steps WHERE result IN '
    .. '(SELECT id FROM results WHERE run = ?)', run.id)[1]
  local done, total, left = found.n, steps_of(run), nil
  if total and done > 0 and run.state == 'running' then
    local first = runs:rows('SELECT min(started) AS t FROM results WHERE run = ?', run.id)[1]
    local passed = math.max(lib.C.neap_time() - (first.t or run.started), found.s or 0)
    left = math.max(0, passed * (total - done) / done)
  end
  return done, total, left
end

--- Results of a run, each with last: its latest step (nil: none yet).
-- : store, table -> table
function live.results(runs, run)
  local list = runs:rows('SELECT * FROM results WHERE run = ? ORDER BY id', run.id)
  for _, result in ipairs(list) do
    result.last = runs:rows('SELECT * FROM steps WHERE result = ? ORDER BY step DESC LIMIT 1',
      result.id)[1]
  end
  return list
end

--- Curves of a result over its steps so far, by metric (metrics.curves).
-- : store, table -> table
function live.curves(runs, result)
  local steps = runs:rows('SELECT * FROM steps WHERE result = ? ORDER BY step', result.id)
  return metrics.curves(steps, steps[1] and steps[1].step)
end

-- What one looks at first, in order.
local FIRST = { 'loss', 'imbalance', 'exposed', 'tokens_per_second' }

--- Metrics that have curves: loss, imbalance, exposed and tokens/s first.
-- : -> table
function live.metrics()
  local list, seen = {}, {}
  for i, name in ipairs(FIRST) do
    list[i], seen[name] = metrics.find(name), true
  end
  for _, metric in ipairs(metrics.list) do
    if metric.curve and not seen[metric.name] then list[#list + 1] = metric end
  end
  return list, #FIRST
end

return live

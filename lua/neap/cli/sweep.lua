-- SPDX-License-Identifier: Apache-2.0

--- neap sweep: plans a grid of runs, does those that have not been done, says how they ended.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local arguments = require 'neap.base.arguments'
local executor = require 'neap.sweep.executor'
local store = require 'neap.runs.store'
local sweep = require 'neap.sweep'
local text_table = require 'neap.base.text_table'

-- What a sweep can be of.
local KINDS = {
  run = require 'neap.cli.run', replay = require 'neap.cli.replay',
  simulate = require 'neap.cli.simulate',
}

local command = { doc = 'Run every combination of some parameters; go on where it stopped.' }

command.examples = [[
Examples:
  neap sweep experiments/quickstart.lua policies=static,laer,minimax seed=0..4
  neap sweep experiments/quickstart.lua policy=laer,minimax seed=0..4 steps=60 --dry-run
  neap sweep replay trace=experiments/traces/e8k2.safetensors,mine.csv slots=2 policy=static,laer
  neap sweep simulate cluster=a100x32 policy=static,laer,neap seed=1..5
  neap sweep experiments/sweeps/policies.lua
  neap sweep experiments/sweeps/policies.lua seed=0..9 --launch='mpirun -n 4'
Values: a,b,c; 0..4; 0..100:20; lists in braces: ffn={64,32},{128}.
The same command goes on where it stopped: finished runs are never repeated, failed ones only with
--retry-failed. neap compare --sweep NAME shows the results. Ctrl-C stops cleanly.]]

local INTERRUPTED = 130

function command.options(parser)
  parser:argument('what', 'a recipe, a sweep file (Lua, returns a table), replay or simulate')
    :argname '<what>'
  parser:argument('axes', 'NAME=VALUES: parameters of the recipe, options of the command')
    :args '*':argname '<axis>'
  arguments.sweep(parser, 'what the sweep is called (default: as its file)')
  parser:option('--jobs', 'runs at a time (one at a time does not disturb another)')
    :default '1':convert(arguments.whole('--jobs', 1, 1024))
  parser:option('--launch', "what starts a run's ranks, for instance 'mpirun -n 4'")
  parser:flag('--dry-run', 'only show the plan and an estimate')
  parser:flag('--retry-failed', 'do failed runs again')
  parser:option('--store', 'run store (default: NEAP_STORE, else runs.db)'):argname '<file>'
  parser:flag('--json', 'results as JSON')
end

--- How many runs of a plan are in each state.
local function count(plan)
  local counts = { done = 0, failed = 0, running = 0, todo = 0 }
  for _, entry in ipairs(plan) do counts[entry.state] = counts[entry.state] + 1 end
  return counts
end

local function chosen(plan, retry)
  local list = {}
  for _, entry in ipairs(plan) do
    if entry.state == 'todo' or (retry and entry.state == 'failed') then list[#list + 1] = entry end
  end
  return list
end

--- What the plan will take, as text.
local function estimate(runs, definition, todo, jobs)
  local total = 0
  for _, entry in ipairs(todo) do
    local seconds = runs and sweep.estimate(runs, definition, entry)
    if not seconds then return 'no estimate: no run of this script is in the store yet' end
    total = total + seconds
  end
  return ('about %s'):format(text_table.duration(total / math.min(jobs, math.max(1, #todo))))
end

local function show_plan(runs, definition, plan, todo, args)
  local rows = {}
  for i, entry in ipairs(plan) do
    rows[i] = { entry.number, entry.state, entry.run, entry.label, entry.key:sub(1, 8) }
  end
  print(text_table.format({ 'no.', 'state', 'run', 'parameters', 'key' }, rows))
  print(('\nsweep %s: %d runs, %d to do, %s with --jobs %d'):format(definition.name, #plan, #todo,
    estimate(runs, definition, todo, args.jobs), args.jobs))
end

local function as_document(definition, plan)
  local list = {}
  for i, entry in ipairs(plan) do
    list[i] = { number = entry.number, state = entry.state, run = entry.run, key = entry.key,
      arguments = entry.words, error = entry.error }
  end
  return json.results('sweep', { sweep = definition.name, rows = list }, { 'sweep', 'rows',
    'number', 'state', 'run', 'arguments', 'error' })
end

local function tell(definition, plan, args)
  if args.json then return print(as_document(definition, plan)) end
  local counts = count(plan)
  print(('sweep %s: %d done, %d failed, %d to do%s'):format(definition.name, counts.done,
    counts.failed, counts.todo, counts.running > 0 and (', %d running elsewhere'):format(
    counts.running) or ''))
  for _, entry in ipairs(plan) do
    if entry.state == 'failed' then
      print(('  failed: no. %d (run %s), %s: %s'):format(entry.number, entry.run or '?',
        entry.label, (entry.error or 'no message'):match '^[^\n]*'))
    end
  end
  for _, entry in ipairs(plan) do
    if entry.state == 'done' and entry.error then
      print(('  no. %d (run %d), %s: %s'):format(entry.number, entry.run, entry.label, entry.error))
    end
  end
  if counts.failed > 0 then print '--retry-failed does the failed ones again' end
  if counts.done > 0 then
    print(('the results: neap compare --sweep %s'):format(definition.name))
  end
end

local function open_store(args)
  local path = store.path(args)
  if not args.dry_run then return store.open(path, true) end
  local file = io.open(path)
  if file then file:close() end
  return file and store.open(path) or nil
end

function command.run(args)
  local definition = sweep.load(args.what, args.axes, KINDS)
  definition.name = args.sweep or definition.name
  local plan = sweep.plan(definition, args.launch)
  local runs = open_store(args)
  for _, entry in ipairs(plan) do entry.state = 'todo' end
  if runs then sweep.look_up(runs, plan) end
  local todo = chosen(plan, args.retry_failed)
  if args.dry_run then
    if args.json then print(as_document(definition, plan))
    else show_plan(runs, definition, plan, todo, args) end
    return 0
  end
  sweep.register(runs, definition.name, plan)
  local finished = executor.run(todo, { name = definition.name, runs = runs, jobs = args.jobs,
    launch = args.launch })
  tell(definition, plan, args)
  runs:close()
  if not finished then
    errors.tell 'interrupted; the same command goes on from here'
    return INTERRUPTED
  end
  if count(plan).failed > 0 then return 1 end
  for _, entry in ipairs(plan) do
    if entry.error then return errors.FAULTY end
  end
  return 0
end

return command

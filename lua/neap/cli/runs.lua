--- neap runs: what the run store holds.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local kept = require 'neap.runs.kept'
local lib = require 'neap.base.lib'
local arguments = require 'neap.base.arguments'
local metrics = require 'neap.runs.metrics'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'

local command = { doc = 'List the runs of the run store, or show one of them.' }

local WIDEST = 80 -- characters of a command or error in the list

local STATES = { 'done', 'failed', 'interrupted', 'running' }

command.examples = [[
Examples:
  neap runs                         the last 20 runs
  neap runs --state failed          those that failed, with what they said
  neap runs 12                      all that is known of run 12, and its results
  neap runs 12 --steps --json       the metrics of its steps too
The store is one SQLite file, runs.db unless --store or NEAP_STORE says otherwise.]]

function command.options(parser)
  parser:argument('run', 'number of a run'):args '?':convert(function(text)
    local id = tonumber(text)
    if id and id % 1 == 0 and id > 0 then return id end
    return nil, ("run '%s': it must be a number, as neap runs lists them"):format(text)
  end)
  parser:option('--store', 'the file (default: NEAP_STORE, else runs.db)'):argname '<file>'
  parser:option('--state', 'only runs in this state'):choices(STATES)
  arguments.sweep(parser, 'only runs of this sweep')
  parser:option('--last', 'how many (default: 20)'):default '20'
    :convert(arguments.whole('--last', 1))
  parser:flag('--steps', 'with a run: the metrics of every step')
  parser:flag('--json', 'results as JSON')
end

local function date(seconds)
  return seconds and os.date('%Y-%m-%d %H:%M:%S', math.floor(seconds))
end

local function duration(run)
  return run.ended and ('%.1f s'):format(run.ended - run.started)
end

--- Runs that the options ask for, newest last, with the names of their policies.
local function choose(runs, args)
  local list = {}
  for _, run in ipairs(runs:runs('?1 IS NULL OR key IN '
    .. '(SELECT key FROM sweeps WHERE name = ?1)', args.sweep)) do
    if not args.state or run.state == args.state then
      local names = {}
      for i, row in ipairs(runs:rows('SELECT policy FROM results WHERE run = ?', run.id)) do
        names[i] = row.policy
      end
      run.policies = names
      list[#list + 1] = run
    end
  end
  while #list > args.last do table.remove(list, 1) end
  return list
end

--- What a run was or said, short enough for a line.
local function last_column(run)
  local text = (run.error or run.command):match '^[^\n]*'
  return #text > WIDEST and text:sub(1, WIDEST) .. '…' or text
end

local IN_JSON = { 'parameters', 'machine', 'libraries', 'corpora' }

--- Columns that hold JSON, as tables.
local function unpack_json(row, names)
  for _, name in ipairs(names) do
    row[name] = row[name] and kept.facts(row[name], ('run %d: %s'):format(row.id, name))
  end
  return row
end

local KEYS = { 'rows', 'id', 'kind', 'state', 'command', 'policies', 'policy', 'seed', 'run',
  unpack(metrics.keys()) }

--- rows: runs, which are changed to what is printed.
local function print_json(rows)
  for _, run in ipairs(rows) do
    unpack_json(run, IN_JSON)
    for _, result in ipairs(run.results or {}) do
      for i, step in ipairs(result.metrics or {}) do result.metrics[i] = metrics.nest(step) end
    end
  end
  print(json.results('runs', { rows = rows }, KEYS))
end

local function show_list(runs, args)
  local list, rows = choose(runs, args), {}
  if args.json then return print_json(list) end
  for i, run in ipairs(list) do
    rows[i] = { run.id, run.state, run.kind, date(run.started), duration(run), run.seed,
      table.concat(run.policies, ' '), run.sweep, last_column(run) }
  end
  print(text_table.format({ 'run', 'state', 'kind', 'started', 'took', 'seed', 'policies', 'sweep',
    'command or error' }, rows))
end

local function find(runs, args)
  local run = runs:runs('id = ?', args.run)[1]
  if not run then
    errors.usage('run %d is not in %s; neap runs lists them', args.run, runs.path)
  end
  run.results = runs:rows('SELECT * FROM results WHERE run = ? ORDER BY id', run.id)
  for _, result in ipairs(run.results) do
    result.summary = result.summary and kept.summary(result.summary,
      ('%s: result %d: summary'):format(runs.path, result.id))
    if args.steps then
      result.metrics = runs:rows('SELECT * FROM steps WHERE result = ? ORDER BY step', result.id)
    end
  end
  return run
end

local function show_value(name, value)
  if type(value) ~= 'table' then
    print(('%-14s %s'):format(name, tostring(value)))
    return
  end
  for _, key in ipairs(lib.sorted_keys(value)) do
    local item = value[key]
    print(('%-14s %s: %s'):format(name, key, type(item) == 'table' and json.encode(item)
      or tostring(item)))
  end
end

--- The steps' metrics that were measured, between their number and the hash of their layouts.
local function show_steps(result)
  local heading, rows, stored = { 'step' }, {}, {}
  for _, metric in ipairs(metrics.list) do
    local first = result.metrics[1]
    if metric.stored and first and first[metric.name] then stored[#stored + 1] = metric end
  end
  for column, metric in ipairs(stored) do heading[column + 1] = metric.title end
  heading[#heading + 1] = 'layouts'
  for i, step in ipairs(result.metrics) do
    rows[i] = { step.step, [#heading] = step.layouts }
    for column, metric in ipairs(stored) do
      local value = step[metric.name]
      rows[i][column + 1] = value and metrics.show(metric, value) or false
    end
  end
  print(text_table.format(heading, rows))
end

local function show_one(runs, args)
  local run = find(runs, args)
  if args.json then return print_json { run } end
  unpack_json(run, IN_JSON)
  for _, name in ipairs(lib.sorted_keys(run)) do
    if name ~= 'results' then show_value(name, run[name]) end
  end
  for _, result in ipairs(run.results) do
    print(('\nresult %d: %s, %s steps%s'):format(result.id, result.policy, result.steps or '?',
      result.summary and '' or ', not finished'))
    show_value('', result.summary or {})
    if args.steps then show_steps(result) end
  end
end

function command.run(args)
  local runs = store.existing(args)
  return (args.run and show_one or show_list)(runs, args)
end

return command

-- SPDX-License-Identifier: Apache-2.0

--- neap runs: what the run store holds.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local kept = require 'neap.runs.kept'
local lib = require 'neap.base.lib'
local arguments = require 'neap.base.arguments'
local marks = require 'neap.runs.marks'
local metrics = require 'neap.runs.metrics'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'

local command = { doc = 'List the runs of the run store, show one, tag, note or remove some.' }

local WIDEST = 80 -- characters of a command or error in the list

local STATES = { 'done', 'failed', 'interrupted', 'running' }

command.examples = [[
Examples:
  neap runs                         the last 20 runs
  neap runs --state failed          those that failed, with what they said
  neap runs 12                      all that is known of run 12, and its results
  neap runs 12 --steps --json       the metrics of its steps too
  neap runs 12..19 --set-tag paper   a tag; --remove-tag takes it off, --tag lists those with it
  neap runs 12 --set-note 'learning rate was too high'
  neap runs --state failed --remove   takes runs out of the store, with their results
The store is one SQLite file, runs.db unless --store or NEAP_STORE says otherwise.]]

local function range(text)
  local first, last = text:match '^(%d+)$', nil
  if not first then first, last = text:match '^(%d+)%.%.(%d+)$' end
  first, last = tonumber(first), tonumber(last or first)
  if first and first > 0 and last >= first then return { first, last } end
  return nil, ("run '%s': it must be a number, as neap runs lists them, or a range, 12..19")
    :format(text)
end

function command.options(parser)
  parser:argument('runs', 'numbers of runs: 12, or 12..19'):args '*':argname '<run>'
    :convert(range)
  parser:option('--store', 'the file (default: NEAP_STORE, else runs.db)'):argname '<file>'
  parser:option('--state', 'only runs in this state'):choices(STATES)
  arguments.sweep(parser, 'only runs of this sweep')
  parser:option('--tag', 'only runs with this tag'):argname '<tag>'
  parser:option('--kind', 'only runs of this kind'):choices { 'run', 'replay', 'simulate' }
  parser:option('--with-policy', 'only runs with a result of this policy'):argname '<policy>'
  parser:option('--last', 'how many (default: 20, or all that are named, changed or removed)')
    :convert(arguments.whole('--last', 1))
  arguments.several(parser, '--set-tag', 'give them tags'):argname '<tag>'
  arguments.several(parser, '--remove-tag', 'take tags off them'):argname '<tag>'
  parser:option('--set-note', "write a note to them ('': none)"):argname '<text>'
  parser:flag('--remove', 'take them out of the store')
  parser:flag('--steps', 'with a run: the metrics of every step')
  parser:flag('--json', 'results as JSON')
end

--- Whether a run is one of those that were named by number; all are if none was.
local function is_named(run, ranges)
  for _, one in ipairs(ranges) do
    if run.id >= one[1] and run.id <= one[2] then return true end
  end
  return #ranges == 0
end

--- Policies of the results of all runs: { [run] = list }.
local function policies_of(runs)
  local by_run = {}
  for _, row in ipairs(runs:rows 'SELECT run, policy FROM results ORDER BY id') do
    by_run[row.run] = by_run[row.run] or {}
    table.insert(by_run[row.run], row.policy)
  end
  return by_run
end

local function has(list, wanted)
  for _, item in ipairs(list) do
    if item == wanted then return true end
  end
  return not wanted
end

--- Runs that the options ask for, newest last, with the names of their policies and their marks.
-- most: so many at most (nil: all).
local function choose(runs, args, most)
  local list, policies = {}, policies_of(runs)
  local tagged = args.tag and marks.tagged(runs, args.tag)
  for _, run in ipairs(runs:runs('?1 IS NULL OR key IN '
    .. '(SELECT key FROM sweeps WHERE name = ?1)', args.sweep)) do
    run.policies = policies[run.id] or {}
    if (not args.state or run.state == args.state) and (not tagged or tagged[run.id])
      and (not args.kind or run.kind == args.kind) and has(run.policies, args.with_policy)
      and is_named(run, args.runs) then
      list[#list + 1] = run
    end
  end
  local first = most and math.max(1, #list - most + 1) or 1
  list = { unpack(list, first) }
  marks.add(runs, list)
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

local MOST = 20 -- runs that are listed if nothing else is said

local function print_list(list)
  local rows = {}
  for i, run in ipairs(list) do
    rows[i] = { run.id, run.state, run.kind, text_table.date(run.started), run.ended
      and text_table.duration(run.ended - run.started), run.seed, table.concat(run.policies, ' '),
      run.sweep, run.tags and table.concat(run.tags, ' '), run.note or last_column(run) }
  end
  print(text_table.format({ 'run', 'state', 'kind', 'started', 'took', 'seed', 'policies', 'sweep',
    'tags', 'note, command or error' }, rows))
end

local function show_list(runs, args)
  local list = choose(runs, args, args.last or #args.runs == 0 and MOST or nil)
  if args.json then print_json(list) else print_list(list) end
end

--- Tags, notes or removes what the options choose, which must be something.
local function change(runs, args)
  local chosen = #args.runs > 0 or args.state or args.sweep or args.tag or args.kind
    or args.with_policy or args.last
  if not chosen then
    errors.usage 'which runs? name them (12, 12..19), or choose by --state, --sweep, --tag, …'
  end
  local list = choose(runs, args, args.last)
  if #list == 0 then errors.usage('%s has no such runs', runs.path) end
  if args.remove then
    marks.remove(runs, list)
    io.stderr:write(('removed %d run%s of %s\n'):format(#list, #list == 1 and '' or 's', runs.path))
  else
    marks.set(runs, list, { tag = args.set_tag, untag = args.remove_tag, note = args.set_note })
    for _, run in ipairs(list) do run.tags, run.note = nil, nil end
    marks.add(runs, list)
  end
  if args.json then print_json(list) else print_list(list) end
end

local function find(runs, args)
  local id = args.runs[1][1]
  local run = runs:runs('id = ?', id)[1]
  if not run then errors.usage('run %d is not in %s; neap runs lists them', id, runs.path) end
  marks.add(runs, { run })
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
  local took = run.ended and text_table.duration(run.ended - run.started) or nil
  for _, name in ipairs { 'started', 'heartbeat', 'ended' } do
    run[name] = run[name] and text_table.date(run[name])
  end
  run.took = took
  run.tags = run.tags and table.concat(run.tags, ' ')
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
  if args.remove or args.set_note or #args.set_tag > 0 or #args.remove_tag > 0 then
    return change(runs, args)
  end
  local one = #args.runs == 1 and args.runs[1][1] == args.runs[1][2]
  return (one and show_one or show_list)(runs, args)
end

return command

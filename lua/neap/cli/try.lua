-- SPDX-License-Identifier: Apache-2.0

--- neap try: a policy on the traces that come with Neap, in seconds; again whenever it is saved.

local outputs = require 'neap.base.outputs'
local chart = require 'neap.draw.chart'
local check = require 'neap.train.check'
local subprocess = require 'neap.engine.subprocess'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local session = require 'neap.policy.session'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local arguments = require 'neap.base.arguments'
local metrics = require 'neap.runs.metrics'
local policies = require 'neap.policy'
local progress = require 'neap.base.progress'
local sources = require 'neap.base.sources'
local text_table = require 'neap.base.text_table'
local try_policy = require 'neap.replay.try_policy'

local command = { doc = 'Try a policy on the traces that come with Neap; --watch: as you write.' }

local REFERENCES = { 'static', 'laer', 'neap' }
local IMBALANCE = metrics.find 'imbalance'
local LOOK = 0.2     -- seconds between looks at a watched file
local INTERRUPTED = 130

command.examples = [[
Examples:
  neap try experiments/policies/hot.lua
  neap try mine.lua --watch                   again whenever the file is saved
  neap try mine.lua:window=3 --trace my.safetensors
  neap try mine.lua --output worst.svg        the worst step as a picture
Says whether the policy's answers are valid, whether it is deterministic, its imbalance (largest
work of a rank / mean) next to static, laer and neap, the time of its plans, its worst step, and
whether small trainings under it have the losses and gradients of the static layout to the bit.
Exit status 3 if the policy had faults or is not deterministic, 1 if a training differs.]]

function command.options(parser)
  parser:argument('policy', 'NAME or file, with +SPLIT and :parameter=value,…'):argname '<policy>'
  arguments.elsewhere(parser, '--policy --policies', 'the policy stands alone: neap try hot')
  arguments.elsewhere(parser, '-n --ranks', 'ranks are those of the traces; --trace names others')
  parser:option('--trace', 'a trace to try it on instead; may be given more than once')
    :count '*':argname '<file>'
  parser:option('--seed', 'of policies that draw'):convert(arguments.whole('--seed', 0)):default '1'
  session.deadline_option(parser)
  parser:option('-o --output --picture', 'SVG file for the worst step, work by rank')
    :argname '<file.svg>'
  parser:flag('--watch', 'try again whenever the file is saved, until Ctrl-C')
  session.trust_option(parser)
  parser:flag('--json', 'results as JSON')
end

local function shipped_traces()
  local folder, list = launcher.home .. '/experiments/traces/', {}
  for _, entry in ipairs(launcher.list(folder)) do
    if entry:match '%.safetensors$' then list[#list + 1] = folder .. entry end
  end
  table.sort(list)
  return list
end

--- The traces with what the references score on them, which does not change while we watch.
local function open_trials(args)
  local trials = {}
  for i, path in ipairs(#args.trace > 0 and args.trace or shipped_traces()) do
    trials[i] = try_policy.open(path)
    local remark = trials[i].topology:remark()
    errors.note(remark and ('%s: %s'):format(trials[i].name, remark))
  end
  local bar = progress.open(#trials * #REFERENCES, 'references')
  for i, t in ipairs(trials) do
    t.references = {}
    for j, name in ipairs(REFERENCES) do
      t.references[name] = t:run(name).entry
      bar:update((i - 1) * #REFERENCES + j, t.name)
    end
  end
  bar:close()
  return trials
end

--- A policy on one trace, twice. Returns the trace's row and the messages of faults. The first
-- replay stops at the first fault: if that was a hook that ran too long, the rest is not worth the
-- wait, and the row has no figures.
local function try_one(args, t)
  local options = { seed = args.seed, deadline = args.deadline, strict = true,
    trusted = args.trust_policies }
  local began = lib.C.neap_clock()
  local ok, first = pcall(t.run, t, args.policy, options)
  if not ok and (type(first) ~= 'table' or first.code ~= 'POLICY') then error(first, 0) end
  if not ok and lib.C.neap_clock() - began >= (args.deadline or session.DEADLINE) then
    return { trace = t.name, faults = 1, deterministic = true, ended = true }, { first.message }
  end
  options.strict = false
  first = ok and first or t:run(args.policy, options)
  local second, row = t:run(args.policy, options), first.entry
  row.trace, row.deterministic = t.name, first.digest == second.digest
  row.worst = first.worst
  return row, first.messages
end

--- Trains a small model under the policy in some ways.
local function train(args)
  return check.run { policies = { args.policy }, ranks = { 2, 3, 4 }, splits = { '' },
    schedules = { 'laer', 'neap:recompute=true,chunks=2' },
    shard_groups = { 'all', 'node', 'resident' }, deadline = args.deadline }
end

--- One round over all traces. Returns the document.
local function try(args, trials)
  local document = { policy = args.policy, rows = {}, faults = 0, messages = {},
    deterministic = true }
  for i, t in ipairs(trials) do
    local row, messages = try_one(args, t)
    row.references = {}
    for _, name in ipairs(REFERENCES) do row.references[name] = t.references[name].imbalance end
    document.rows[i] = row
    document.faults = document.faults + row.faults
    document.deterministic = document.deterministic and row.deterministic
    for _, message in ipairs(messages) do
      document.messages[#document.messages + 1] = t.name .. ': ' .. message
    end
  end
  document.check = document.faults == 0 and document.deterministic and train(args) or nil
  return document
end

--- ---- showing it -------------------------------------------------------------------------------

local function table_of(document)
  local values, heading, rows = {}, { 'trace', unpack(REFERENCES) }, {}
  for i, row in ipairs(document.rows) do
    values[i], rows[i] = metrics.values(row), { row.trace }
    for j, name in ipairs(REFERENCES) do
      rows[i][j + 1] = metrics.show(IMBALANCE, row.references[name].mean)
    end
  end
  for _, metric in ipairs(metrics.shown('try', values)) do
    heading[#heading + 1] = metric == IMBALANCE and 'yours' or metric.title
    for i in ipairs(rows) do
      local value = values[i][metric.name]
      rows[i][#heading] = value and metrics.show(metric, value) or false
    end
  end
  return text_table.format(heading, rows)
end

--- The trace on which the worst step is worst: the step and its trial, or nil without any.
local function worst_of(document, trials)
  local worst, where
  for i, row in ipairs(document.rows) do
    if row.worst and not (worst and row.worst.fullest <= worst.fullest) then
      worst, where = row.worst, trials[i]
    end
  end
  return worst, where
end

local function verdict(document)
  local better, least = {}, 1
  for _, row in ipairs(document.rows) do
    least = math.min(least, row.imbalance and row.in_force or 1)
  end
  if least < 1 then
    return ('NOT ITS OWN: its answers were in force for %.3g %% of the splits at worst; the rest '
      .. 'went by the static layout, an older one or the split minimax'):format(100 * least)
  end
  for _, name in ipairs(REFERENCES) do
    local count = 0
    for _, row in ipairs(document.rows) do
      if row.imbalance and row.imbalance.mean < row.references[name].mean then
        count = count + 1
      end
    end
    better[#better + 1] = ('%s on %d of %d'):format(name, count, #document.rows)
  end
  return 'better balanced than ' .. table.concat(better, ', ')
end

local function faults_of(document)
  if document.faults == 0 then return 'every answer is valid' end
  local ended = 0
  for _, row in ipairs(document.rows) do ended = ended + (row.ended and 1 or 0) end
  return ('%d FAULT%s%s'):format(document.faults, document.faults == 1 and '' or 'S', ended > 0
    and (', at which %d of %d replays were ended'):format(ended, #document.rows) or '')
end

local function show(document, trials)
  print(('%s: %s, %s'):format(document.policy, faults_of(document),
    document.deterministic and 'deterministic' or 'NOT DETERMINISTIC: two replays differ'))
  for i = 1, math.min(3, #document.messages) do print('  ' .. document.messages[i]) end
  if document.faults > 3 then print(('  and %d more'):format(document.faults - 3)) end
  print '\nimbalance, mean over steps and layers; 1 is ideal'
  print(table_of(document))
  print(verdict(document) .. '\n')
  if document.check then print(check.text(document.check) .. '\n') end
  local worst, where = worst_of(document, trials)
  if worst then print(where:picture(worst)) end
end

local function draw(document, trials, path)
  local worst, where = worst_of(document, trials)
  if not worst then return end
  outputs.write(path, tostring(chart.bars {
    title = ('%s, step %d, layer %d: work by rank'):format(where.name, worst.step, worst.layer),
    unit = 'tokens x cost', values = worst.work,
    node_of = function(rank) return where.topology:node_of(rank) end,
  }) .. '\n')
end

local function once(args, trials)
  local document = try(args, trials)
  if args.json then
    print(json.results('try', document, { 'policy', 'faults', 'deterministic', 'messages', 'rows',
      unpack(metrics.keys()) }))
  else
    show(document, trials)
  end
  if args.output then draw(document, trials, args.output) end
  io.stdout:flush()
  if document.faults > 0 or not document.deterministic then return 3 end
  return check.status(document.check)
end

--- ---- watching ---------------------------------------------------------------------------------

--- Waits until a file's text, or that of a module it requires, differs; nil after Ctrl-C.
local function wait_for_change(file, body)
  while subprocess.interrupts() == 0 do
    local now = sources.text(file)
    if now and now ~= body and #now > 0 then return now end
    launcher.sleep(LOOK)
  end
end

--- A policy that cannot even be loaded is no reason to stop watching.
local function watch(args, trials, file)
  local body = sources.text(file)
  subprocess.catch_interrupts()
  while body do
    local ok, err = xpcall(once, errors.handler, args, trials)
    if not ok then errors.tell(err) end
    io.stderr:write(('\nwatching %s; Ctrl-C ends it\n'):format(file))
    body = wait_for_change(file, body)
    if body then print(('\n%s'):format(('='):rep(80))) end
  end
  return INTERRUPTED
end

function command.run(args)
  outputs.check('--output', args.output)
  local file = policies.resolve(args.policy).file
  local trials = open_trials(args)
  if #trials == 0 then errors.plain('%s/experiments/traces has no traces', lib.home) end
  return args.watch and watch(args, trials, file) or once(args, trials)
end

return command

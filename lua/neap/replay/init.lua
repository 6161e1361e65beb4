--- neap replay: recorded loads under policies. Each policy sees the loads up to step t - 1, answers
-- with layouts for step t, and then the exact counts of step t are split. replay.score does so from
-- Lua, for one policy.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local failure = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local layouts = require 'neap.engine.layout'
local metrics = require 'neap.base.series'
local numbers = require 'neap.base.arguments'
local policies = require 'neap.policy'
local progress = require 'neap.base.progress'
local provenance = require 'neap.runs.provenance'
local session = require 'neap.policy.session'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'
local topologies = require 'neap.engine.topology'
local trace = require 'neap.engine.trace'

local ffi, C = lib.ffi, lib.C

local replay = {
  doc = 'Replay recorded loads under policies and compare their balance.',
  WINDOW = 5, -- steps that warm up
}

replay.examples = [[
Examples:
  neap replay --trace quickstart.safetensors --policy laer --policy mine.lua
  neap replay --trace loads.csv.gz --slots 4 --node-size 8 --policy laer+minimax:window=3]]

local NODE_SIZE = 8 -- ranks a node, where neither the trace nor the caller says
local WINDOW = replay.WINDOW
local DEADLINE = 10 -- seconds that a hook may run: nobody waits for it but the user
local POLICIES = { 'static', 'laer', 'laer+minimax' }

--- ---- one policy --------------------------------------------------------------------------------

local function mean_and_p95(series)
  return { mean = series:mean(), p95 = series:quantile(0.95) }
end

--- State of one policy's replay.
local function open_run(options)
  local t, topology = options.trace, options.topology
  local run = {
    options = options, topology = topology, balance = metrics.balance(),
    split_us = metrics.series(), changed = metrics.series(), before = {},
    load = ffi.new('int64_t[?]', t.ranks * t.experts), row = ffi.new('int64_t[?]', topology.slots),
    session = session.open {
      topology = topology, layers = t.layers, policy = options.policy, seed = options.seed or 0,
      deadline = options.deadline or DEADLINE, strict = options.strict or false,
      in_process = options.in_process or false, wait = true,
    },
  }
  for layer = 0, t.layers - 1 do
    run.before[layer] = layouts.open(topology):copy(run.session:layout(layer))
  end
  return run
end

--- Splits the counts of a layer in force at a step: what one rank spends on the critical path.
local function split(run, step, layer)
  local start = C.neap_clock()
  local amounts = run.session:split(layer, run.load, step)
  amounts:row(step % run.topology.ranks, run.row)
  run.split_us:add((C.neap_clock() - start) * 1e6)
  return amounts:balance(), amounts
end

local function replay_layer(run, step, layer)
  run.options.trace:load(step, layer, run.load)
  run.session:replan(step, layer, run.load)
  local balance, amounts = split(run, step, layer)
  if run.options.recorder then run.options.recorder:balance(balance) end
  local now, before = run.session:layout(layer), run.before[layer]
  if step >= run.options.warm_up then
    run.balance:add(balance)
    run.changed:add(now:changed(before))
  end
  before:copy(now)
  if run.options.on_layer then run.options.on_layer(step, layer, now, balance, amounts) end
  run.session:observe(step, layer, run.load)
end

--- Replays a trace under one policy. Options: trace, topology, policy (text as policy.resolve takes
-- it), and, all optional, warm_up (5, steps that are not scored), seed, deadline, strict,
-- in_process, on_step(step), recorder (of the run store), on_layer(step, layer, layout, balance,
-- split), which sees what was in force. Returns the policy's entry in the JSON document, and the
-- messages of its faults.
function replay.score(options)
  options.warm_up = options.warm_up or WINDOW
  local run = open_run(options)
  for step = 0, options.trace.steps - 1 do
    run.session:advance(step)
    for layer = 0, options.trace.layers - 1 do replay_layer(run, step, layer) end
    if options.recorder then options.recorder:step(step, {}, run.session) end
    if options.on_step then options.on_step(step) end
  end
  local report, entry = run.session:report(), run.balance:summary()
  entry.policy, entry.bound = options.policy, run.session.plans_on == 'current' or nil
  entry.late_slots = run.session.plans_on == 'both' or nil
  entry.plan_ms, entry.split_us = report.plan_ms, mean_and_p95(run.split_us)
  entry.slots_changed, entry.faults = run.changed:mean(), report.faults
  run.session:close()
  if options.recorder then options.recorder:close(entry) end
  return entry, report.messages
end

--- ---- the command -------------------------------------------------------------------------------

--- "2" or "2,2,3": a number, or a list of numbers.
local function number_list(name)
  return function(text)
    local list = {}
    for item in text:gmatch '[^,]+' do
      list[#list + 1] = tonumber(item)
      if not list[#list] or list[#list] <= 0 then
        return nil, ("%s is '%s'; it must be numbers above 0"):format(name, text)
      end
    end
    return #list > 1 and list or list[1]
  end
end

--- What is replayed, and how: for every command that replays. needed: --trace must be given.
function replay.trace_options(command, needed)
  command:option('--trace', 'what to replay: safetensors, or CSV, plain or gzipped')
    :count(needed and '1' or '?')
  command:option('--slots', 'slots a rank, or a number for each rank (default: as recorded)')
    :convert(number_list '--slots')
  command:option('--node-size', ('ranks a node (default: as recorded, else %d)'):format(NODE_SIZE))
    :convert(numbers.whole('--node-size', 1))
  command:option('--cost', 'work of a token, for each expert'):convert(number_list '--cost')
  command:option('--speed', 'relative speed of each rank'):convert(number_list '--speed')
  command:option('--policy', 'NAME or file, with +SPLIT and :parameter=value,… (default: '
    .. table.concat(POLICIES, ', ') .. ')'):count '*'
  command:option('--window', ('steps that warm up, and that policies plan on (default: %d)'):format(
    WINDOW)):convert(numbers.whole('--window', 1))
  command:option('--seed', 'of policies that draw'):convert(numbers.whole('--seed', 0)):default '0'
  command:option('--deadline', ('seconds that a hook may run (default: %d)'):format(DEADLINE))
    :convert(number_list '--deadline')
  command:flag('--strict', 'stop with status 3 at the first fault of a policy')
  command:flag('--in-process', 'run policies in this process, for debuggers and profilers')
end

function replay.options(command)
  replay.trace_options(command, true)
  command:flag('--json', 'results as JSON')
  store.options(command)
end

local function list_of(value)
  return type(value) == 'number' and { value } or value
end

--- Topology that the options of a command ask for, for a trace. Raises USAGE.
function replay.open_topology(args, t)
  local slots = args.slots or tonumber(t.metadata.slots)
  if not slots then failure.usage('%s does not say how many slots a rank has; give --slots',
    t.path) end
  local size = args.node_size or tonumber(t.metadata.node_size) or NODE_SIZE
  local ok, topology = pcall(topologies.open, {
    ranks = t.ranks, node_size = math.min(size, t.ranks), experts = t.experts, slots = slots,
    cost = list_of(args.cost), speed = list_of(args.speed),
  })
  if ok then return topology end
  failure.usage('%s', type(topology) == 'table' and topology.message or tostring(topology))
end

--- The policy's text with window=W, if the caller gave --window and the policy, one of those that
-- come with Neap, has that parameter and no value for it yet.
local function with_window(text, window)
  local selection = policies.resolve(text)
  local shipped = selection.file:sub(1, #launcher.home) == launcher.home
  if not window or not shipped or selection.params.window
    or not policies.load(selection.file).params.window then
    return text
  end
  return ('%s%swindow=%d'):format(text, text:find(':', 1, true) and ',' or ':', window)
end

local function print_table(document, t)
  print(('%s: %d steps of %d layers, %s, scored from step %d'):format(t.path, t.steps, t.layers,
    document.topology, document.warm_up))
  local rows = {}
  for i, p in ipairs(document.policies) do
    local m = p.imbalance
    rows[i] = {
      p.policy .. (p.bound and ' (bound)' or p.late_slots and ' (late slots)' or ''),
      ('%.4f'):format(m.mean), ('%.4f'):format(m.p50), ('%.4f'):format(m.p95),
      ('%.3f'):format(m.max), ('%.2f'):format(p.std_percent),
      ('%.2f'):format(100 * p.inter_node_share), ('%.3f'):format(p.plan_ms.mean),
      ('%.3f'):format(p.plan_ms.p95), ('%.1f'):format(p.split_us.mean),
      ('%.1f'):format(p.split_us.p95), ('%.1f'):format(p.slots_changed), p.faults,
    }
  end
  print(text_table.format({ 'policy', 'imbalance', 'p50', 'p95', 'max', 'std %', 'inter-node %',
    'plan ms', 'p95', 'split us', 'p95', 'slots changed', 'faults' }, rows))
end

local KEYS = { 'trace', 'topology', 'warm_up', 'seed', 'policies', 'policy', 'bound', 'late_slots',
  'ranks', 'experts', 'layers', 'steps', 'imbalance', 'mean', 'p50', 'p95', 'max', 'std_percent',
  'inter_node_share', 'plan_ms', 'split_us', 'slots_changed', 'faults', 'messages' }

local function score_all(args, t, topology, document, begin)
  local texts = #args.policy > 0 and args.policy or POLICIES
  local bar = progress.open(#texts * t.steps, 'replay')
  for i, text in ipairs(texts) do
    text = with_window(text, args.window)
    local entry, messages = replay.score {
      trace = t, topology = topology, policy = text, warm_up = document.warm_up, seed = args.seed,
      deadline = args.deadline, strict = args.strict, in_process = args.in_process,
      recorder = begin { policy = text, seed = args.seed, trace = args.trace },
      on_step = function(step) bar:update((i - 1) * t.steps + step + 1, text) end,
    }
    document.policies[i] = entry
    failure.tell_faults(messages)
  end
  bar:close()
end

--- Columns of the store for a replay, and what its results can be compared by.
local function describe(args, t)
  local settings = { kind = 'replay', files = { args.trace }, parameters = {
    slots = args.slots or tonumber(t.metadata.slots), cost = args.cost, speed = args.speed,
    node_size = args.node_size or tonumber(t.metadata.node_size), seed = args.seed,
    window = args.window, deadline = args.deadline,
    policies = #args.policy > 0 and args.policy or POLICIES,
  } }
  local key, context = provenance.keys(settings)
  return {
    kind = 'replay', command = provenance.command(), key = key, seed = args.seed, ranks = t.ranks,
    parameters = json.encode(settings.parameters), node_size = settings.parameters.node_size,
  }, context
end

--- Key of the run that arguments ask for: what a sweep knows finished runs by.
function replay.key(args)
  if not (replay.last and replay.last.path == args.trace) then
    replay.last = trace.open(args.trace)
  end
  return describe(args, replay.last).key
end

function replay.run(args)
  for _, text in ipairs(args.policy) do policies.resolve(text) end
  local t = trace.open(args.trace)
  local topology = replay.open_topology(args, t)
  local document = {
    trace = { ranks = t.ranks, experts = t.experts, layers = t.layers, steps = t.steps },
    topology = tostring(topology), warm_up = args.window or WINDOW, seed = args.seed,
    policies = {},
  }
  if t.steps <= document.warm_up then
    failure.usage('%s has %d steps; %d are needed to warm up and one to score', t.path, t.steps,
      document.warm_up)
  end
  local row, context = describe(args, t)
  store.recorded(args, row, context, function(begin)
    score_all(args, t, topology, document, begin)
  end)
  if args.json then
    print(json.encode(document, KEYS))
  else
    print_table(document, t)
  end
end

return replay

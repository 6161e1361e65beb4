-- SPDX-License-Identifier: Apache-2.0

--- neap replay: recorded loads under policies, compared.

local json = require 'neap.base.json'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local arguments = require 'neap.base.arguments'
local policies = require 'neap.policy'
local progress = require 'neap.base.progress'
local provenance = require 'neap.runs.provenance'
local replay = require 'neap.replay'
local session = require 'neap.policy.session'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'
local trace = require 'neap.engine.trace'

local command = { doc = 'Replay recorded loads under policies and compare their balance.' }

command.examples = [[
Examples:
  neap replay --trace quickstart.safetensors --policy laer --policy mine.lua
  neap replay --trace loads.csv.gz --slots 4 --node-size 8 --policy laer+minimax:window=3]]

local WINDOW = replay.WINDOW
local POLICIES = { 'static', 'laer', 'laer+minimax' }

--- "2" or "2,2,3": a number, or a list of numbers; convert: of one of them.
local function number_list(convert)
  return function(text)
    local list = {}
    for item in text:gmatch '[^,]+' do
      local value, why = convert(item)
      if not value then return nil, why end
      list[#list + 1] = value
    end
    return #list > 1 and list or list[1]
  end
end

--- What is replayed, and how: for every command that replays. needed: --trace must be given.
function command.trace_options(parser, needed)
  parser:option('--trace', 'what to replay: safetensors, or CSV, plain or gzipped')
    :count(needed and '1' or '?')
  parser:option('-n --ranks', "the trace's: another number is refused")
    :convert(arguments.whole('--ranks', 1)):argname '<ranks>'
  parser:option('--slots', 'slots per rank, or a number for each rank (default: as recorded)')
    :convert(number_list(arguments.whole('--slots', 1, 2 ^ 20)))
  parser:option('--node-size', ('ranks per node (default: as recorded, else %d)'):format(
    replay.NODE_SIZE)):convert(arguments.whole('--node-size', 1))
  parser:option('--cost', 'work of a token, for each expert')
    :convert(number_list(arguments.positive '--cost'))
  parser:option('--speed', 'relative speed of each rank')
    :convert(number_list(arguments.positive '--speed'))
  arguments.policies(parser, table.concat(POLICIES, ','))
  parser:option('--window', ('steps that warm up, and that policies plan on (default: %d)'):format(
    WINDOW)):convert(arguments.whole('--window', 1))
  parser:option('--seed', 'of policies that draw')
    :convert(arguments.whole('--seed', 0)):default '1'
  session.deadline_option(parser)
  parser:flag('--strict', 'stop with status 3 at the first fault of a policy')
  parser:flag('--in-process', 'run policies in this process, for debuggers and profilers')
  session.trust_option(parser)
end

function command.options(parser)
  command.trace_options(parser, true)
  parser:flag('--json', 'results as JSON')
  store.options(parser)
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
  print(text_table.format(metrics.cells('replay', document.rows)))
end

local function score_all(args, t, topology, document, begin)
  local texts = #args.policy > 0 and args.policy or POLICIES
  local bar = progress.open(#texts * t.steps, 'replay')
  for i, text in ipairs(texts) do
    text = with_window(text, args.window)
    local entry, messages = replay.score {
      trace = t, topology = topology, policy = text, warm_up = document.warm_up, seed = args.seed,
      deadline = args.deadline, strict = args.strict, in_process = args.in_process,
      trusted = args.trust_policies,
      recorder = begin { policy = text, seed = args.seed, trace = args.trace },
      on_step = function(step) bar:update((i - 1) * t.steps + step + 1, text) end,
    }
    document.rows[i] = entry
    errors.tell_faults(messages)
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

local last -- trace that key has opened

--- Key of the run that arguments ask for: what a sweep knows finished runs by.
function command.key(args)
  if not (last and last.path == args.trace) then
    last = trace.open(args.trace)
  end
  return describe(args, last).key
end

function command.run(args)
  session.check(args.policy, args.in_process, args.trust_policies)
  local t = trace.read(args.trace)
  local topology = replay.open_topology(args, t)
  errors.note(topology:remark())
  local document = {
    trace = { ranks = t.ranks, experts = t.experts, layers = t.layers, steps = t.steps },
    topology = tostring(topology), warm_up = args.window or WINDOW, seed = args.seed,
    rows = {},
  }
  if t.steps <= document.warm_up then
    errors.usage('%s has %d steps; %d are needed to warm up and one to score', t.path, t.steps,
      document.warm_up)
  end
  local row, context = describe(args, t)
  local status = store.recorded(args, row, context, function(begin)
    score_all(args, t, topology, document, begin)
    return names.status(document.rows)
  end)
  if args.json then
    print(json.results('replay', document, { 'topology', 'warm_up', unpack(metrics.keys()) }))
  else
    print_table(document, t)
  end
  return status
end

return command

--- neap simulate: steps of a model on a described cluster under a policy: the policy file that
-- replays and trains, unchanged, on machines that nobody here owns.

local errors = require 'neap.base.errors'
local outputs = require 'neap.base.outputs'
local clusters = require 'neap.simulate.cluster'
local force_balanced = require 'neap.simulate.force_balanced'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local models = require 'neap.simulate.models'
local arguments = require 'neap.base.arguments'
local provenance = require 'neap.runs.provenance'
local simulate = require 'neap.simulate'
local spans = require 'neap.simulate.timeline'
local schedules = require 'neap.nn.schedule'
local session = require 'neap.policy.session'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'
local chrome_trace = require 'neap.profile.chrome_trace'
local trace = require 'neap.engine.trace'

local command = { doc = 'Simulate training steps of a model on a cluster that is only described.' }

command.examples = [[
Examples:
  neap simulate
  neap simulate --cluster a100x32 --model mixtral-8x7b-e8k2 --policy laer --policy mine.lua
  neap simulate --policy neap --steps 1 --timeline step.json
  neap simulate --cluster h100x256 --ranks 4096 --model moe-671b --policy neap --steps 1]]

local function group(text)
  if text == 'all' or text == 'node' or text == 'resident' then return text end
  return arguments.whole('--shard-group', 1)(text)
end

function command.options(parser)
  parser:option('--cluster', 'name or Lua file: ' .. table.concat(clusters.names(), ', '))
    :default 'a100x32'
  parser:option('--model', 'model: ' .. table.concat(lib.sorted_keys(models.known), ', '))
    :default 'mixtral-8x7b-e16k4'
  arguments.policies(parser, 'static,laer,neap')
  parser:option('--schedule', 'of transfers, as neap run takes it: '
    .. table.concat(lib.sorted_keys(schedules.named), ', ') .. ', with fields: laer:chunks=2')
    :default 'laer'
  parser:option('--shard-group', 'ranks that parameters are cut over: all, node, or how many; '
    .. 'resident: see --experts (default: all)'):convert(group)
  parser:option('--experts', 'sharded (FSEP), or resident: whole, each at home on a rank '
    .. '(plain EP), other slots fetch from there (default: sharded)')
    :choices { 'sharded', 'resident' }
  parser:option('--ep', 'of resident experts: ranks that have a home of every one (default: all)')
    :convert(arguments.whole('--ep', 1, 2 ^ 20))
  parser:option('--trace', 'recorded routing (default: synthetic)')
  parser:option('--routing', 'chosen by the trace or model, or balanced: every expert gets as '
    .. 'many tokens, what others call force-balanced (default: chosen)')
    :choices { 'chosen', 'balanced' }
  parser:flag('--balanced', 'tell the share of force-balanced: the time of the same steps with '
    .. 'balanced routing under static layouts without slots to spare / their time')
  parser:option('-n --ranks', "ranks, other than the cluster's")
    :convert(arguments.whole('-n', 1, 2 ^ 20))
  parser:option('--node-size', "ranks per node, other than the cluster's")
    :convert(arguments.whole('--node-size', 1, 2 ^ 20))
  parser:option('--slots', "expert slots of a rank, other than the model's")
    :convert(arguments.whole('--slots', 1, 2 ^ 20))
  parser:option('--layers', "layers, other than the model's")
    :convert(arguments.whole('--layers', 1))
  parser:option('--distinct', 'layers with loads and plans of their own, which the others repeat '
    .. '(default: all, fewer where that takes long)'):convert(arguments.whole('--distinct', 1))
  parser:option('--steps', 'steps to simulate'):convert(arguments.whole('--steps', 1)):default '4'
  parser:option('--seed', 'of routing and policies')
    :convert(arguments.whole('--seed', 0)):default '1'
  parser:option('--timeline', 'file for the last step: JSON for Perfetto; its text is printed')
  parser:option('--timeline-ranks', 'ranks that the file shows')
    :convert(arguments.whole('--timeline-ranks', 1)):default '32'
  parser:flag('--strict', 'stop with status 3 at the first fault of a policy')
  parser:flag('--in-process', 'run policies in this process, for debuggers and profilers')
  session.trust_option(parser)
  session.deadline_option(parser)
  parser:flag('--json', 'results as JSON')
  store.options(parser)
end

--- Where experts are kept: --experts=resident is --shard-group=resident.
local function shard_group_of(args)
  local given, resident = args.shard_group, args.experts == 'resident'
  if given and (args.experts and resident ~= (given == 'resident')) then
    errors.usage('--experts=%s and --shard-group=%s: give one of them', args.experts, given)
  end
  return given or resident and 'resident' or 'all'
end

local function open_simulation(args, policy, routing, slots)
  return simulate.open { cluster = clusters.describe(args.cluster,
    { ranks = args.ranks, node_size = args.node_size }),
    policy = policy, model = models.describe(args.model, { layers = args.layers }),
    slots = slots or args.slots, distinct = args.distinct, routing = routing,
    schedule = args.schedule, shard_group = shard_group_of(args), ep = args.ep,
    seed = args.seed, trace = args.trace and trace.read(args.trace), strict = args.strict or false,
    deadline = args.deadline, in_process = args.in_process or false,
    trusted = args.trust_policies or false }
end

--- The time of a step with force-balanced routing: the same for all policies.
local function balanced_ms(args)
  local m = models.describe(args.model)
  local ranks = clusters.describe(args.cluster, { ranks = args.ranks }).ranks
  local slots, policy = force_balanced.reference(args.slots or m.slots, ranks, m.experts, true)
  local homes = shard_group_of(args) == 'resident' and (args.ep or ranks)
  if homes and m.experts % homes == 0 then
    slots, policy = m.experts / homes, 'static+minimax'
  elseif homes then -- no rank may have more experts than another: sharded ones can be copied
    args = setmetatable({ shard_group = 'all', experts = 'sharded', ep = 0 }, { __index = args })
  end
  local s = open_simulation(args, policy, 'balanced', slots)
  local row = s:run(args.steps)
  s:close()
  return row.step_ms
end

--- balanced: what balanced_ms gave, or nil.
local function run_policy(args, policy, balanced, last, recorder)
  local s = open_simulation(args, policy, args.routing)
  if not args.noted then errors.note(s.topology:remark()) end
  args.noted = true
  local row, text = s:run(args.steps, recorder), nil
  row.policy, row.cluster, row.model, row.schedule = policy, args.cluster, args.model, args.schedule
  if last and args.timeline then
    chrome_trace.write(args.timeline, { { label = policy,
      ranks = spans.of(s.cluster, args.timeline_ranks) } })
    text = spans.text(s.cluster)
  end
  s:close()
  row.share_of_balanced = balanced and balanced / row.step_ms
  return row, text
end

--- What the simulation itself cost, on one core.
local function effort(rows)
  local sum, all = {}, 0
  for _, row in ipairs(rows) do
    for name, seconds in pairs(row.spent) do
      sum[name], all = (sum[name] or 0) + seconds, all + seconds
    end
  end
  local parts = {}
  for _, name in ipairs { 'loads', 'plan', 'split', 'price', 'simulate' } do
    parts[#parts + 1] = ('%s %.2f'):format(name, sum[name])
  end
  return ('took %.2f s: %s (%d layers of their own; with warm-up)'):format(all,
    table.concat(parts, ', '), rows[1].distinct)
end

local function print_table(args, rows, text)
  print(('simulated: %s on %s, schedule %s, %d steps, seed %d'):format(args.model, args.cluster,
    args.schedule, args.steps, args.seed))
  print(text_table.format(metrics.cells('simulate', rows)))
  print('\n' .. effort(rows))
  if text then print('\n' .. text) end
end

local DEFAULT_POLICIES = { 'static', 'laer', 'neap' }

--- Columns of the run store for a simulation, and what its results can be compared by.
local function describe(args)
  local parameters = { policies = #args.policy > 0 and args.policy or DEFAULT_POLICIES }
  parameters.shard_group = shard_group_of(args)
  for _, name in ipairs { 'cluster', 'model', 'schedule', 'ep', 'steps', 'seed',
    'ranks', 'node_size', 'slots', 'layers', 'distinct', 'routing', 'balanced' } do
    parameters[name] = args[name]
  end
  local files = { args.trace }
  if args.cluster:match '%.lua$' then files[#files + 1] = args.cluster end
  local key, context = provenance.keys { kind = 'simulate', files = files,
    parameters = parameters }
  return { kind = 'simulate', command = provenance.command(), key = key, seed = args.seed,
    parameters = json.encode(parameters) }, context
end

--- Key of the run that arguments ask for: what a sweep knows finished runs by.
function command.key(args)
  return (describe(args)).key
end

local function record_policy(args, policy, balanced, last, begin)
  local recorder = begin { policy = policy, seed = args.seed, trace = args.trace }
  local row, text = run_policy(args, policy, balanced, last, recorder)
  if recorder then recorder:close(row) end
  return row, text
end

function command.run(args)
  local texts = #args.policy > 0 and args.policy or DEFAULT_POLICIES
  schedules.resolve(args.schedule)
  session.check(texts, args.in_process, args.trust_policies)
  outputs.check('--timeline', args.timeline)
  local columns, context = describe(args)
  local rows, text, balanced = {}, nil, args.balanced and balanced_ms(args) or nil
  local status = store.recorded(args, columns, context, function(begin)
    for i, policy in ipairs(texts) do
      rows[i], text = record_policy(args, policy, balanced, i == #texts, begin)
    end
    return names.status(rows)
  end)
  if args.json then
    print(json.results('simulate', { steps = args.steps, seed = args.seed, cluster = args.cluster,
      model = args.model, schedule = args.schedule, simulated = true, rows = rows },
      metrics.keys()))
  else
    print_table(args, rows, text)
  end
  return status
end

return command

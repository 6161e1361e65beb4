-- SPDX-License-Identifier: Apache-2.0

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
local memory = require 'neap.train.simulated_memory'
local routing = require 'neap.simulate.routing'
local arguments = require 'neap.base.arguments'
local provenance = require 'neap.runs.provenance'
local simulate = require 'neap.simulate'
local systems = require 'neap.simulate.systems'
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
  neap simulate --routing later --baselines --balanced
  neap simulate --policy laer --policy neap --schedule laer --schedule neap:recompute=true
  neap simulate --cluster h100x256 -n 128 --model mine.lua --tokens 8192 --memory
  neap simulate --policy neap --steps 1 --timeline step.json
  neap simulate --cluster h100x256 --ranks 4096 --model moe-671b --policy neap --steps 1]]

local function group(text)
  if text == 'all' or text == 'node' or text == 'resident' then return text end
  return arguments.whole('--shard-group', 1)(text)
end

function command.options(parser)
  parser:option('--cluster', 'name or Lua file: ' .. table.concat(clusters.names(), ', '))
    :default 'a100x32'
  parser:option('--model', 'name or Lua file: '
    .. table.concat(lib.sorted_keys(models.known), ', '))
    :default 'mixtral-8x7b-e16k4'
  arguments.policies(parser, 'static,laer,neap')
  arguments.several(parser, '--schedule', 'of transfers, as neap run takes it: '
    .. table.concat(lib.sorted_keys(schedules.named), ', ') .. ', with fields: laer:chunks=2; one '
    .. 'or, for a table of each, several (default: laer)')
  parser:option('--shard-group', 'ranks that parameters are cut over: all, node, or how many; '
    .. 'resident: see --experts (default: all)'):convert(group)
  parser:option('--experts', 'sharded (FSEP), or resident: whole, each at home on a rank '
    .. '(plain EP), other slots fetch from there (default: sharded)')
    :choices { 'sharded', 'resident' }
  parser:option('--ep', 'of resident experts: ranks that have a home of every one (default: all)')
    :convert(arguments.whole('--ep', 1, 2 ^ 20))
  parser:option('--trace', 'recorded routing (default: synthetic)')
  parser:option('--routing', 'chosen: by the trace or model; counted, last, later: as in '
    .. 'published counts, all, the last, and after them (timed, or middle: docs/paper.md); '
    .. 'sigma=…,tau=…,rho=…; or balanced: every expert gets as many tokens, what others call '
    .. 'force-balanced'):default 'chosen'
  parser:flag('--balanced', 'tell the share of force-balanced: the time of the same steps with '
    .. 'balanced routing under static layouts without slots to spare / their time')
  parser:flag('--baselines', 'resident experts besides, with all ranks of a node as --ep unless it '
    .. 'is given: plain EP, and MoonEP, UltraEP and LLEP on the current counts')
  parser:flag('--memory', 'tell what a rank needs memory for, by kind')
  parser:option('--unshard', 'how parameters travel: as they are, or in FP8'):default 'dtype'
    :choices { 'dtype', 'fp8' }
  parser:option('--dispatch', 'how tokens travel to their experts: as they are, or in FP8')
    :default 'dtype':choices { 'dtype', 'fp8' }
  parser:option('-n --ranks', "ranks, other than the cluster's")
    :convert(arguments.whole('-n', 1, 2 ^ 20))
  parser:option('--node-size', "ranks per node, other than the cluster's")
    :convert(arguments.whole('--node-size', 1, 2 ^ 20))
  parser:option('--slots', "expert slots of a rank, other than the model's")
    :convert(arguments.whole('--slots', 1, 2 ^ 20))
  parser:option('--layers', "layers, other than the model's")
    :convert(arguments.whole('--layers', 1))
  parser:option('--tokens', "of a rank in a micro-batch, other than the model's")
    :convert(arguments.whole('--tokens', 1, 2 ^ 31))
  parser:option('--micro-batches', "of a step, other than the model's")
    :convert(arguments.whole('--micro-batches', 1, 2 ^ 20))
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

--- What a row is simulated with, where it differs from the arguments: policy, schedule, slots,
-- routing, and shard_group with ep.
local function open_simulation(args, case)
  local chosen = routing.describe(args.routing, args.model, args.trace)
  return simulate.open { cluster = clusters.describe(args.cluster,
    { ranks = args.ranks, node_size = args.node_size }),
    model = models.describe(args.model, { layers = args.layers, tokens = args.tokens,
      micro_batches = args.micro_batches, load = chosen.load }),
    policy = case.policy, slots = case.slots or args.slots, distinct = args.distinct,
    routing = case.routing or chosen.kind, schedule = case.schedule,
    shard_group = case.shard_group or shard_group_of(args), ep = case.ep or args.ep,
    unshard = case.shard_group ~= 'resident' and args.unshard or 'dtype', dispatch = args.dispatch,
    seed = args.seed, trace = args.trace and trace.read(args.trace), strict = args.strict or false,
    deadline = args.deadline, in_process = args.in_process or false,
    trusted = args.trust_policies or false }
end

--- The time of a step with force-balanced routing: the same for all policies.
local function balanced_ms(args, schedule)
  local m = models.describe(args.model)
  local ranks = clusters.describe(args.cluster, { ranks = args.ranks }).ranks
  local case = { routing = 'balanced', schedule = schedule }
  case.slots, case.policy = force_balanced.reference(args.slots or m.slots, ranks, m.experts, true)
  local homes = shard_group_of(args) == 'resident' and (args.ep or ranks)
  if homes and m.experts % homes == 0 then
    case.slots, case.policy = m.experts / homes, 'static+minimax'
  elseif homes then -- no rank may have more experts than another: sharded ones can be copied
    case.shard_group, case.ep = 'all', 0
  end
  local s = open_simulation(args, case)
  local row = s:run(args.steps)
  s:close()
  return row.step_ms
end

--- balanced: what balanced_ms gave, or nil.
local function run_case(args, case, balanced, last, recorder)
  local s = open_simulation(args, case)
  if not args.noted then errors.note(s.topology:remark()) end
  args.noted = true
  local row, text = s:run(args.steps, recorder), nil
  row.policy, row.cluster, row.model = case.policy .. case.mark, args.cluster, args.model
  row.name = (row.name or case.policy) .. case.mark
  row.schedule, row.experts = case.schedule, case.experts
  row.memory = memory.of(s.options, row.imbalance.max)
  row.fits = row.memory.fits
  if last and args.timeline then
    chrome_trace.write(args.timeline, { { label = case.policy,
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

local function gigabytes(bytes)
  return bytes and ('%.1f'):format(bytes / 1e9) or '-'
end

--- Names of the rows of a verdict on their memory, nil without any.
local function of_verdict(rows, row_names, verdict)
  local list = {}
  for i, row in ipairs(rows) do
    if row.fits == verdict then list[#list + 1] = row_names[i] end
  end
  if #list == #rows then return 'all of these' end
  return #list > 0 and table.concat(list, ', ') or nil
end

--- What does not fit, and what of the rest is fastest.
local function memory_notes(rows)
  local notes, best, row_names = {}, nil, names.plain(rows)
  local capacity = gigabytes(rows[1].memory.capacity)
  local lean, none = of_verdict(rows, row_names, 'lean'), of_verdict(rows, row_names, 'no')
  if lean then
    notes[#notes + 1] = ('more than the %s GB of a rank in the engine, though not in a lean '
      .. 'program of the same order of work: %s'):format(capacity, lean)
  end
  if none then
    notes[#notes + 1] = ('not ranked, since not even a lean program fits into the %s GB of a rank: '
      .. '%s'):format(capacity, none)
  end
  for i, row in ipairs(rows) do
    if names.counts(row) and row.plans_on ~= 'known' and (not best or row.step_ms < best.ms) then
      best = { name = row_names[i], ms = row.step_ms }
    end
  end
  notes[#notes + 1] = best and ('fastest of what fits: %s, %.2f ms'):format(best.name, best.ms)
    or 'nothing fits: no row is ranked'
  return table.concat(notes, '\n')
end

--- Memory of a rank by kind, lean / engine.
local function memory_table(rows)
  local heading, lines = { 'GB of a rank, lean / engine' }, {}
  for i, name in ipairs(names.of(rows)) do
    local memory_of = rows[i].memory
    lines[i] = { name }
    for k, kind in ipairs(memory_of.kinds) do
      heading[k + 1] = kind.kind
      lines[i][k + 1] = gigabytes(kind.lean) .. ' / ' .. gigabytes(kind.engine)
    end
    table.insert(lines[i], gigabytes(memory_of.lean) .. ' / ' .. gigabytes(memory_of.engine))
  end
  heading[#heading + 1] = 'all'
  return text_table.format(heading, lines)
end

local function print_tables(args, rows, text)
  print(('simulated: %s on %s, %d steps, seed %d; routing %s'):format(args.model, args.cluster,
    args.steps, args.seed, routing.describe(args.routing, args.model, args.trace).text))
  for _, name in ipairs { 'unshard', 'dispatch' } do
    if args[name] == 'fp8' then print(('%s: FP8'):format(name)) end
  end
  for _, schedule in ipairs(args.schedule) do
    local some = {}
    for _, row in ipairs(rows) do
      if row.schedule == schedule then some[#some + 1] = row end
    end
    print(('\nschedule %s'):format(schedule))
    print(text_table.format(metrics.cells('simulate', some)))
    print(memory_notes(some))
    if args.memory then print('\n' .. memory_table(some)) end
  end
  print('\n' .. effort(rows))
  if text then print('\n' .. text) end
end

local DEFAULT_SCHEDULE = 'laer'
local DEFAULT_POLICIES = { 'static', 'laer', 'neap' }

--- Columns of the run store for a simulation, and what its results can be compared by.
local function describe(args)
  local parameters = { policies = #args.policy > 0 and args.policy or DEFAULT_POLICIES }
  parameters.shard_group = shard_group_of(args)
  for _, name in ipairs { 'cluster', 'model', 'ep', 'steps', 'seed', 'ranks', 'node_size', 'slots',
    'layers', 'tokens', 'micro_batches', 'distinct', 'routing', 'balanced', 'baselines' } do
    parameters[name] = args[name]
  end
  for _, name in ipairs { 'unshard', 'dispatch' } do -- keys of other runs stay as they were
    parameters[name] = args[name] ~= 'dtype' and args[name] or nil
  end
  parameters.schedule = #args.schedule < 2 and (args.schedule[1] or DEFAULT_SCHEDULE)
    or args.schedule
  local files = { args.trace }
  for _, name in ipairs { 'cluster', 'model' } do
    if args[name]:match '%.lua$' then files[#files + 1] = args[name] end
  end
  local key, context = provenance.keys { kind = 'simulate', files = files,
    parameters = parameters }
  return { kind = 'simulate', command = provenance.command(), key = key, seed = args.seed,
    parameters = json.encode(parameters) }, context
end

--- Key of the run that arguments ask for: what a sweep knows finished runs by.
function command.key(args)
  return (describe(args)).key
end

--- All rows: under every schedule the policies, and the baselines. mark: what tells them from those
-- of the same policy.
local function cases_of(args, policies)
  local list = {}
  for i, schedule in ipairs(args.schedule) do
    local mark = i > 1 and (' [%s]'):format(schedule) or ''
    for _, policy in ipairs(policies) do
      list[#list + 1] = { policy = policy, mark = mark, schedule = schedule }
    end
    for _, policy in ipairs(args.baselines and systems.resident or {}) do
      list[#list + 1] = { policy = policy, mark = mark .. ' [resident]', schedule = schedule,
        experts = 'resident', shard_group = 'resident', ep = args.ep or systems.degree(
          clusters.describe(args.cluster, { ranks = args.ranks, node_size = args.node_size }),
          models.describe(args.model)) }
    end
  end
  return list
end

local function policies_of(cases)
  local list = {}
  for i, case in ipairs(cases) do list[i] = case.policy end
  return list
end

local function record_case(args, case, balanced, last, begin)
  local recorder = begin { policy = case.policy .. case.mark, seed = args.seed, trace = args.trace }
  local row, text = run_case(args, case, balanced, last, recorder)
  if recorder then recorder:close(row) end
  return row, text
end

--- Rows, and the text of the timeline.
local function run_cases(args, cases, begin)
  local rows, text, balanced = {}, nil, {}
  for i, case in ipairs(cases) do
    local name = case.schedule
    if args.balanced then balanced[name] = balanced[name] or balanced_ms(args, name) end
    rows[i], text = record_case(args, case, balanced[name], i == #cases, begin)
  end
  return rows, text
end

function command.run(args)
  if #args.schedule == 0 then args.schedule = { DEFAULT_SCHEDULE } end
  for _, schedule in ipairs(args.schedule) do schedules.resolve(schedule) end
  local chosen = routing.describe(args.routing, args.model, args.trace)
  local cases = cases_of(args, #args.policy > 0 and args.policy or DEFAULT_POLICIES)
  session.check(policies_of(cases), args.in_process, args.trust_policies)
  outputs.check('--timeline', args.timeline)
  local columns, context = describe(args)
  local rows, text
  local status = store.recorded(args, columns, context, function(begin)
    rows, text = run_cases(args, cases, begin)
    return names.status(rows)
  end)
  if args.json then
    print(json.results('simulate', { steps = args.steps, seed = args.seed, cluster = args.cluster,
      model = args.model, routing = chosen.text, schedule = args.schedule[1], simulated = true,
      rows = rows }, metrics.keys()))
  else
    print_tables(args, rows, text)
  end
  return status
end

return command

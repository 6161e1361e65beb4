-- SPDX-License-Identifier: Apache-2.0

--- neap run: loads the recipe, validates its parameters and starts the ranks.

local balanced_twin = require 'neap.train.balanced_twin'
local check = require 'neap.train.check'
local comm = require 'neap.engine.comm'
local check_cases = require 'neap.train.check_cases'
local json = require 'neap.base.json'
local memory_estimate = require 'neap.train.memory_estimate'
local checkpoint_folder = require 'neap.train.checkpoint_folder'
local recipe_pricing = require 'neap.simulate.recipe_pricing'
local errors = require 'neap.base.errors'
local models = require 'neap.simulate.models'
local launcher = require 'neap.launcher'
local arguments = require 'neap.base.arguments'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local params = require 'neap.base.params'
local launch = require 'neap.train.launch'
local progress = require 'neap.base.progress'
local provenance = require 'neap.runs.provenance'
local recipe = require 'neap.train.recipe'
local sizes = require 'neap.train.sizes'
local session = require 'neap.policy.session'
local store = require 'neap.runs.store'

local run = {
  doc = 'Run a recipe on ranks that are threads, or on the processes of mpirun.', has_ranks = true,
}

run.examples = [[
Examples:
  neap run experiments/quickstart.lua
  neap run experiments/quickstart.lua --help            its parameters too
  neap run experiments/quickstart.lua --policies=mine.lua --check     does it train right?
  neap run experiments/quickstart.lua --device=sim --cluster=a100x8 --as=mixtral-8x7b-e16k4
  neap run experiments/quickstart.lua -n 4 --steps=60 --policies=laer,mine.lua --seed=2
  mpirun -n 4 neap run experiments/quickstart.lua --node-size 2]]

-- Options of run itself that take a value: what the search for the recipe's name must skip.
local WITH_VALUE = {
  ['-n'] = true, ['--ranks'] = true, ['--node-size'] = true, ['--device'] = true,
  ['--cluster'] = true, ['--as'] = true,
  ['--timeline'] = true, ['--timeline-step'] = true,
  ['--store'] = true, ['--deadline'] = true, ['--timeout'] = true,
  ['--checkpoint'] = true, ['--checkpoint-every'] = true, ['--checkpoint-keep'] = true,
}

local MAX_RANKS = 4096

--- The recipe's file: the first argument that is no option and not the value of one of run's own.
-- A recipe's parameters become known only by loading it, so before it they are --name=value.
local function find_recipe(words)
  local i = 2
  while i <= #words do
    if words[i]:sub(1, 1) ~= '-' then return words[i] end
    i = i + (WITH_VALUE[words[i]] and 2 or 1)
  end
end

local UNITS = { s = 1, min = 60, h = 3600 }

--- '100' as { steps = 100 }, '10min' as { seconds = 600 }.
local function interval(text)
  local number, unit = text:match '^(%d+)(%a*)$'
  number = tonumber(number)
  if number and number >= 1 and number < 2 ^ 53 and (unit == '' or UNITS[unit]) then
    return unit == '' and { steps = number } or { seconds = number * UNITS[unit] }
  end
  errors.usage("--checkpoint-every is '%s'; it must be a number of steps, or 90s, 10min, 2h", text)
end

--- Adds run's options and, if a recipe is named, the recipe's; returns normalized arguments.
function run.options(command, words)
  command:argument('recipe', 'Lua file that returns recipe.define{…}'):argname '<recipe.lua>'
  command:option('-n --ranks', 'ranks to run on (default: the recipe\'s); under mpirun, its -n')
    :argname('<ranks>'):convert(arguments.whole('-n', 1, MAX_RANKS))
  command:option('--node-size', 'ranks per node (default: by host, else the recipe\'s)')
    :argname('<ranks>'):convert(arguments.whole('--node-size', 1, MAX_RANKS))
  command:option('--device', 'where to compute; sim: on the CPU, with the time that steps would '
    .. 'take on --cluster'):choices({ 'cpu', 'cuda', 'sim' }):default 'cpu'
  command:option('--cluster', 'with --device=sim: name or Lua file of a cluster (default: a100x32)')
    :argname '<cluster>'
  command:option('--as', 'with --device=sim: the model whose layers are timed (default: that of '
    .. 'the recipe)'):argname '<model>'
  command:flag('--balanced', 'tell the share of force-balanced: the time of the same training with '
    .. '--routing=balanced under static layouts without slots to spare, done first, / its time')
  command:flag('--strict', 'stop with status 3 at the first fault of a policy')
  command:flag('--in-process', 'run policies inside the rank, for debuggers and profilers')
  session.trust_option(command)
  session.deadline_option(command)
  command:option('--timeout', 'seconds that an operation between ranks may take before the run '
    .. 'ends with status 6 (default: 600; 0: no limit)')
    :argname('<seconds>'):convert(arguments.not_negative '--timeout')
  command:option('--timeline', 'record a step: JSON for Perfetto, and where its time goes')
    :argname('<file>')
  command:option('--timeline-step', 'the step to record, from 0 (default: 3, or the last)')
    :argname('<step>'):convert(arguments.whole('--timeline-step', 0, 2 ^ 53))
  command:flag('--check', 'train only a small model, in many ways under the recipe\'s policies: do '
    .. 'losses and gradients agree to the bit?')
  command:option('--checkpoint', 'folder that the training is saved in, to go on from')
    :argname('<folder>'):convert(arguments.path('--checkpoint'))
  command:option('--checkpoint-every', 'how often: steps, or 90s, 10min, 2h (default: 10min)')
    :argname('<time>'):convert(interval)
  command:option('--checkpoint-keep', 'checkpoints that stay (default: 2)')
    :argname('<number>'):convert(arguments.whole('--checkpoint-keep', 1, 1000))
  command:flag('--resume', "go on from the newest checkpoint in --checkpoint's folder, if any")
  command:flag('--dry-run', 'print the memory that the run will need, by kind, and what a step '
    .. 'computes; start nothing')
  command:flag('--json', 'results as JSON')
  store.options(command)
  local path = find_recipe(words)
  if not path then return words end
  local script = recipe.load(path)
  command:description(('%s: %s'):format(script.name, script.doc or ''))
  params.add(command, script.params, 'Parameters of ' .. script.name)
  return params.normalize(words, script.params)
end

--- Values as JSON can hold them, without their metatable.
local function plain(values)
  local copy = setmetatable({}, { __jsontype = 'object' })
  for name, value in pairs(values) do copy[name] = value end
  return copy
end

--- Columns of the store for a run: what decides its results.
local function describe(args, script, values, ranks)
  local settings = { kind = 'run', files = { args.recipe }, parameters = plain(values) }
  local all = settings.parameters
  all.ranks, all.node_size = ranks, args.node_size or script.node_size
  all.device, all.strict, all.in_process = args.device, args.strict, args.in_process
  all.balanced = args.balanced
  if args.sim then all.device, all.cluster, all.as = 'sim', args.sim.cluster, args.sim.model end
  local key, context = provenance.keys(settings)
  return {
    kind = 'run', command = provenance.command(), script = args.recipe, key = key,
    parameters = json.encode(plain(values)), seed = rawget(values, 'seed'), ranks = ranks,
    node_size = all.node_size, device = args.device,
    corpora = json.encode(setmetatable(provenance.corpora(), { __jsontype = 'object' })),
  }, context
end

--- A copy of the arguments. With --device=sim it tells in sim what is to be simulated, and for the
-- rest is that of a run on the CPU with the cluster's ranks and nodes.
local function prepare(given)
  local args = {}
  for name, value in pairs(given) do args[name] = value end
  if args.device ~= 'sim' then
    if args.cluster or args.as then errors.usage '--cluster and --as go with --device=sim' end
    return args
  end
  if args.timeline then
    errors.usage '--timeline records what ranks do; neap simulate --timeline writes simulated ones'
  end
  local name = args.cluster or 'a100x32'
  local machine = recipe_pricing.machine(name, args.ranks)
  if args.as then models.describe(args.as) end
  args.device, args.ranks = 'cpu', machine.ranks
  args.node_size = args.node_size or math.min(machine.node_size, machine.ranks)
  args.sim = { cluster = name, model = args.as }
  return args
end

--- Key of the run that arguments ask for: what a sweep knows finished runs by.
function run.key(given)
  local args = prepare(given)
  local script = recipe.load(args.recipe)
  local values = params.values(script.params, args.params or {}, args.device)
  return describe(args, script, values, args.ranks or script.ranks).key
end

--- Notes the run in the store, before threads or MPI start. Returns what rank 0 needs to go on.
local function record(args, script, values, rank, ranks)
  local runs = (rank or 0) == 0 and store.of(args)
  if not runs then return nil end
  local row, context = describe(args, script, values, ranks)
  row.transport = comm.transport_of(rank ~= nil, args.device)
  local id = runs:begin(row)
  local started = runs:runs('id = ?', id)[1].started
  runs:close()
  return { path = store.path(args), run = id, context = context, started = started }
end

--- Tells what memory a training of the recipe needs, without starting it.
local function dry_run(args, script, values, ranks)
  if not memory_estimate.knows(script.params) then
    errors.usage("--dry-run: recipe %s does not have a training's parameters", script.name)
  end
  local size = args.node_size or script.node_size
  memory_estimate.tell(memory_estimate.here(values, ranks, size, args.device), 'run', args.json)
  return 0
end

--- Values, and one more unless it is among them.
local function with(values, one)
  local list = { unpack(values) }
  for _, value in ipairs(values) do
    if value == one then return list end
  end
  list[#list + 1] = one
  return list
end

--- Trains the small model of checks under the policies that the recipe's parameters name.
local function run_check(args, script, values)
  local names = rawget(values, 'policies') or { rawget(values, 'policy') }
  if #names == 0 then
    errors.usage("--check: recipe %s has no parameter 'policies' or 'policy'", script.name)
  end
  if args.sim then errors.usage '--check goes with --device=cpu or --device=cuda' end
  local rank, size = launch.rank_and_size()
  local ranks, bar = size or args.ranks, nil
  local document = check.run {
    policies = names, device = args.device, ranks = ranks and { ranks }, deadline = args.deadline,
    schedules = with(check_cases.SCHEDULES, rawget(values, 'schedule')),
    shard_groups = with(check_cases.SHARD_GROUPS, rawget(values, 'shard_group')),
    on_progress = function(done, total)
      bar = bar or progress.open(total, 'check', (rank or 0) > 0)
      bar:update(done)
    end,
  }
  if bar then bar:close() end
  if (rank or 0) == 0 then
    print(args.json and json.results('run', check.document(document)) or check.text(document))
  end
  return check.status(document)
end

--- What would end the run after minutes: a policy that cannot be loaded, a file that cannot be
-- written.
local function check_before(args, script, values)
  local texts = { rawget(values, 'policy') }
  for _, text in ipairs(rawget(values, 'policies') or {}) do texts[#texts + 1] = text end
  session.check(texts, args.in_process, args.trust_policies)
  for _, name in ipairs(lib.sorted_keys(script.params)) do
    if script.params[name].output then outputs.check('--' .. name:gsub('_', '-'), values[name]) end
  end
  outputs.check('--timeline', args.timeline)
end

--- Parameters that make a model another one.
local OF_MODEL = { layers = true, hidden = true, heads = true, kv_heads = true, experts = true,
  top_k = true, ffn = true, vocabulary = true, shared_experts = true, dense_layers = true,
  dense_ffn = true, router_f32 = true }

--- Texts of the parameters of a run that goes on from a checkpoint: the given ones, else the
-- checkpoint's. Raises USAGE if that is of another recipe or model.
local function resumed(args, script, texts)
  local manifest = args.resume and checkpoint_folder.newest(args.checkpoint)
  if not manifest then return texts end
  if manifest.recipe.name ~= script.name then
    errors.usage('%s: is of recipe %s (%s), not of %s', manifest.path, manifest.recipe.name,
      manifest.recipe.file, script.name)
  end
  local merged = {}
  for name in pairs(script.params) do
    local earlier = manifest.parameters[name]
    merged[name] = texts[name] or earlier
    if OF_MODEL[name] and texts[name] and earlier then
      local wanted = params.values(script.params, { [name] = texts[name] })[name]
      if params.show(wanted) ~= earlier then
        errors.usage('%s: is of another model: %s is %s there and %s here', manifest.path, name,
          earlier, texts[name])
      end
    end
  end
  return merged
end

--- What the ranks are to do about checkpoints, or nil.
local function checkpoint_order(args)
  if not args.checkpoint then
    if args.resume or args.checkpoint_every or args.checkpoint_keep then
      errors.usage '--resume, --checkpoint-every and --checkpoint-keep go with --checkpoint=FOLDER'
    end
    return nil
  end
  local every = args.checkpoint_every or { seconds = 600 }
  return { folder = (args.checkpoint:gsub('(.)/+$', '%1')), steps = every.steps,
    seconds = every.seconds, keep = args.checkpoint_keep or 2, resume = args.resume }
end

function run.run(given)
  local args = prepare(given)
  local script = recipe.load(args.recipe)
  local checkpoint = checkpoint_order(args)
  local texts = resumed(args, script, args.params or {})
  local values = params.values(script.params, texts, args.device)
  if args.timeline_step and not args.timeline then
    errors.usage '--timeline-step goes with --timeline=FILE'
  end
  local rank, size = launch.rank_and_size()
  if rank and args.ranks and args.ranks ~= size then
    errors.usage('-n %d, but mpirun started %d processes; leave -n out', args.ranks, size)
  end
  local ranks = size or args.ranks or script.ranks
  launch.watch(args.timeout)
  if args.check then return run_check(args, script, values) end -- its model is not the recipe's
  sizes.check(script.params, values, ranks)
  if args.balanced then balanced_twin.check(script) end
  if args.dry_run then return rank and rank > 0 and 0 or dry_run(args, script, values, ranks) end
  if (rank or 0) == 0 then check_before(args, script, values) end
  local order = json.encode({
    recipe = args.recipe, node_size = args.node_size, device = args.device, strict = args.strict,
    in_process = args.in_process, trusted = args.trust_policies, deadline = args.deadline,
    json = args.json, balanced = args.balanced, sim = args.sim, timeline = args.timeline,
    timeline_step = args.timeline_step,
    checkpoint = checkpoint,
    params = setmetatable(texts, { __jsontype = 'object' }),
    store = record(args, script, values, rank, ranks),
  })
  local file = launcher.home .. '/lua/neap/main/rank.lua'
  return launch.run(ranks, file, order)
end

return run

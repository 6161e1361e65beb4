--- What require 'neap' offers: modules by name, each loaded when it is first used.
-- neap.layout is require 'neap.layout'; other files of the house are not meant for users.

local lib = require 'neap.base.lib'

local MODULES = {
  -- policies
  policy = 'neap.policy',
  plan = 'neap.plan',
  topology = 'neap.topology',
  layout = 'neap.layout',
  split = 'neap.split',
  session = 'neap.session',
  -- recipes and models
  recipe = 'neap.recipe',
  params = 'neap.base.params',
  trainer = 'neap.trainer',
  results = 'neap.summary',
  text = 'neap.text',
  nn = 'neap.nn',
  optim = 'neap.optim',
  -- the engine
  lib = 'neap.base.lib',
  comm = 'neap.comm',
  device = 'neap.device',
  exact = 'neap.exact',
  moe = 'neap.moe',
  ops = 'neap.ops',
  shards = 'neap.shards',
  tensor = 'neap.tensor',
  timeline = 'neap.timeline',
  -- traces, replays, simulations
  trace = 'neap.trace',
  synth = 'neap.synth',
  replay = 'neap.replay',
  evaluate = 'neap.observe',
  simulate = 'neap.cluster.simulate',
  cluster = 'neap.cluster',
  -- results
  series = 'neap.base.series',
  store = 'neap.store',
  compare = 'neap.compare',
  report = 'neap.report',
  chart = 'neap.chart',
  layout_map = 'neap.layout_map',
  display = 'neap.display',
}

local function load_module(neap, name)
  local path = MODULES[name]
  if not path then
    lib.raise('ARGUMENT', ("neap has no module '%s'%s; it has %s"):format(tostring(name),
      lib.hint(tostring(name), lib.sorted_keys(MODULES)),
      table.concat(lib.sorted_keys(MODULES), ', ')), 2)
  end
  local module = require(path)
  rawset(neap, name, module)
  return module
end

-- __modules: their names, for whoever completes what is typed.
return setmetatable({}, { __index = load_module, __modules = lib.sorted_keys(MODULES) })

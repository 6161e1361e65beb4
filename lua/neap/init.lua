-- SPDX-License-Identifier: Apache-2.0

--- What require 'neap' offers: modules by name, each loaded when it is first used.
-- neap.layout is require 'neap.engine.layout'; other files of the house are not meant for users.

local lib = require 'neap.base.lib'

local MODULES = {
  -- policies
  policy = 'neap.policy',
  plan = 'neap.engine.plan',
  topology = 'neap.engine.topology',
  layout = 'neap.engine.layout',
  split = 'neap.engine.split',
  session = 'neap.policy.session',
  -- recipes and models
  recipe = 'neap.train.recipe',
  params = 'neap.base.params',
  trainer = 'neap.train.trainer',
  results = 'neap.train.results',
  text = 'neap.engine.text',
  nn = 'neap.nn',
  optim = 'neap.nn.optimizer',
  -- the engine
  lib = 'neap.base.lib',
  comm = 'neap.engine.comm',
  device = 'neap.engine.device',
  exact = 'neap.engine.exact',
  moe = 'neap.engine.moe',
  ops = 'neap.engine.ops',
  shards = 'neap.engine.shards',
  tensor = 'neap.engine.tensor',
  timeline = 'neap.engine.timeline',
  -- traces, replays, simulations
  trace = 'neap.engine.trace',
  synth = 'neap.engine.synth',
  workloads = 'neap.engine.workloads',
  replay = 'neap.replay',
  evaluate = 'neap.replay.evaluate',
  simulate = 'neap.simulate',
  cluster = 'neap.simulate.cluster',
  -- results
  series = 'neap.base.series',
  store = 'neap.runs.store',
  compare = 'neap.runs.compare',
  report = 'neap.report',
  chart = 'neap.draw.chart',
  layout_map = 'neap.draw.layout_map',
  display = 'neap.notebook.display',
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

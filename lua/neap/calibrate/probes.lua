--- Small trainings that a machine is fitted to, and how they are measured: steps of all trainings
-- in turn, so that what disturbs one disturbs the others as well; medians.

local series = require 'neap.base.series'
local text = require 'neap.engine.text'
local trainer = require 'neap.train.trainer'
local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'
local trace = require 'neap.engine.trace'

local C = lib.C

local probes = {}

local WARM_UP = 3
local POLICY = 'laer+minimax'
local SIMULATED = 6 -- steps of a prediction
local BYTES = { f32 = 4, bf16 = 2 }
-- Numbers of a machine that no measurement of a single operation tells well enough.
local FITTED = { 'flops', 'elementwise', 'latency', 'port', 'launch' }

--- Parameters of a training: the trainer's defaults on a device with changes, and slots enough for
-- all experts.
function probes.params(job, changes)
  local p = {}
  for name, spec in pairs(trainer.params) do
    p[name] = spec.default
    if job.device == 'cuda' and spec.on_cuda ~= nil then p[name] = spec.on_cuda end
  end
  for name, value in pairs(changes) do p[name] = value end
  p.slots = math.max(p.slots, math.ceil(p.experts / job.ranks))
  return p
end

--- The trainings that tell what a target's step is made of, none of them the target: a smaller and
-- a larger one, one of little work, one of many tokens.
function probes.around(job, target)
  local function scaled(name, factor, unit)
    return math.max(unit, math.floor(target[name] * factor / unit + 0.5) * unit)
  end
  local width = 2 * target.heads
  local function probe(hidden, ffn, layers, sequence, batch)
    local changes = {}
    for name, value in pairs(target) do changes[name] = value end
    changes.hidden, changes.ffn = scaled('hidden', hidden, width),
      { math.max(8, math.floor(target.ffn[1] * ffn)) }
    changes.layers, changes.sequence = scaled('layers', layers, 1), scaled('sequence', sequence, 8)
    changes.batch = scaled('batch', batch, 1)
    return probes.params(job, changes)
  end
  return { probe(0.75, 0.75, 0.67, 0.75, 1), probe(1.25, 1.5, 0.67, 1, 1),
    probe(0.25, 0.25, 1, 0.25, 1), probe(1, 0.5, 0.67, 1, 1.5) }
end

local function open_training(job, p)
  local path = job.rank == 0 and os.tmpname() or ''
  return { path = path, times = series.open(), trainer = trainer.open { job = job,
    params = p, policy = POLICY, text = text.schedule 'english', trace = path, remark = false } }
end

--- Trains all of a list of parameters for so many steps. Returns for each, on rank 0, seconds (the
-- median step), noise (half of the middle half's width, of the median) and trace (its routing).
-- Collective.
function probes.train(job, list, steps)
  local trainings = {}
  for i, p in ipairs(list) do trainings[i] = open_training(job, p) end
  for step = 1, steps + WARM_UP do
    for _, t in ipairs(trainings) do
      job.comm:barrier()
      local began = C.neap_clock()
      t.trainer:step()
      if step > WARM_UP then t.times:add(C.neap_clock() - began) end
    end
  end
  local results = {}
  for i, t in ipairs(trainings) do
    t.trainer:close()
    local middle = t.times:quantile(0.5)
    results[i] = { seconds = middle,
      noise = (t.times:quantile(0.75) - t.times:quantile(0.25)) / 2 / middle }
    if job.rank == 0 then
      results[i].trace = trace.open(t.path)
      os.remove(t.path)
    end
  end
  return results
end

--- Simulated seconds of a step of a training, with the routing that it had.
function probes.predict(machine, p, routing)
  local model = models.trained(p, machine.ranks, BYTES[p.dtype])
  local s = simulate.open { cluster = machine, model = model, policy = POLICY,
    schedule = p.schedule, trace = routing, warm_up = WARM_UP,
    gradient_bytes = p.exact and 8 or 4, shard_group = tonumber(p.shard_group) or p.shard_group }
  local seconds = s:run(math.min(SIMULATED, routing.steps - WARM_UP)).step_ms / 1e3
  s:close()
  return seconds
end

local function changed(machine, values)
  local copy = {}
  for name, value in pairs(machine) do copy[name] = value end
  for i, name in ipairs(FITTED) do copy[name] = values[i] end
  copy.far_latency, copy.uplink = copy.latency, copy.port * copy.node_size
  return copy
end

--- The machine, with numbers that make the simulated steps of some trainings last as long as the
-- measured ones. list: of parameters; results: of train, as many.
function probes.fit(machine, list, results)
  local start, measured = {}, {}
  for i, name in ipairs(FITTED) do start[i] = machine[name] end
  for i = 1, #list do measured[i] = results[i].seconds end
  local values = require('neap.calibrate.fit').solve(start, function(values)
    local predicted = {}
    for i, p in ipairs(list) do
      predicted[i] = probes.predict(changed(machine, values), p, results[i].trace)
    end
    return predicted
  end, measured)
  return changed(machine, values)
end

return probes

-- SPDX-License-Identifier: Apache-2.0

--- Small trainings that a machine is fitted to, and how they are measured: steps of all trainings
-- in turn, so that what disturbs one disturbs the others as well; medians. Fitted are first what
-- every span takes, then what is left to the links.

local breakdown = require 'neap.profile.breakdown'
local every_step = require 'neap.profile.every_step'
local series = require 'neap.base.series'
local text = require 'neap.engine.text'
local trainer = require 'neap.train.trainer'
local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'
local simulated_spans = require 'neap.simulate.timeline'
local spans = require 'neap.calibrate.spans'
local trace = require 'neap.engine.trace'

local C = lib.C

local probes = {}

local WARM_UP = 3
local POLICY = 'laer+minimax'
local SIMULATED = 6 -- steps of a prediction
local BYTES = { f32 = 4, bf16 = 2 }
-- Numbers of a machine that steps as a whole tell.
local FITTED = { 'latency', 'port' }

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
  local path, record = job.rank == 0 and os.tmpname() or '', every_step.open(WARM_UP)
  local recorded = setmetatable({ timeline = record }, { __index = job })
  return { path = path, times = series.open(), record = record,
    trainer = trainer.open { job = recorded, params = p, policy = POLICY,
      text = text.schedule 'english', trace = path, remark = false } }
end

--- Trains all of a list of parameters for so many steps. Returns for each, on rank 0, seconds (the
-- median step), noise (half of the middle half's width, of the median), trace (its routing), spans
-- (calibrate/spans.lua) and ranks (the spans of the last step). Collective.
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
    t.record:close()
    local middle = t.times:quantile(0.5)
    results[i] = { seconds = middle,
      noise = (t.times:quantile(0.75) - t.times:quantile(0.25)) / 2 / middle }
    if job.rank == 0 then
      results[i].trace = trace.open(t.path)
      os.remove(t.path)
      results[i].spans, results[i].ranks = spans.of(t.record.summaries), t.record.last
    end
  end
  return results
end

--- Simulated seconds of a step of a training, with the routing that it had, and its spans.
function probes.predict(machine, p, routing)
  local model = models.trained(p, machine.ranks, BYTES[p.dtype])
  local s = simulate.open { cluster = machine, model = model, policy = POLICY,
    schedule = p.schedule, trace = routing, warm_up = WARM_UP, dense_last = true,
    gradient_bytes = p.exact and 8 or 4, shard_group = tonumber(p.shard_group) or p.shard_group }
  local steps, summaries, sum = math.min(SIMULATED, routing.steps - WARM_UP), {}, 0
  for i = 1, steps do
    sum = sum + s:step().seconds
    summaries[i] = breakdown.summary(simulated_spans.of(s.cluster))
  end
  s:close()
  return sum / steps, spans.of(summaries)
end

local function changed(machine, fields)
  local copy = {}
  for name, value in pairs(machine) do copy[name] = value end
  for name, value in pairs(fields) do copy[name] = value end
  copy.far_latency, copy.uplink = copy.latency, copy.port * copy.node_size
  for i, point in ipairs(fields.port and machine.rates or {}) do
    copy.rates = i == 1 and {} or copy.rates
    copy.rates[i] = { point[1], point[2] * fields.port / machine.port }
  end
  return copy
end

local function named(values)
  local fields = {}
  for i, name in ipairs(FITTED) do fields[name] = values[i] end
  return fields
end

--- What spans of trainings take on a machine, of which nothing but single operations is known.
local function with_spans(machine, list, results)
  local measured, predicted, plans, layers = {}, {}, 0, 0
  local plain = changed(machine, { spans = { unshard = not machine.copied and 1 or nil } })
  for i, p in ipairs(list) do
    measured[i], predicted[i] = results[i].spans, select(2, probes.predict(plain, p,
      results[i].trace))
    plans, layers = plans + (measured[i].plan or 0), layers + p.layers
  end
  local factors = spans.factors(measured, predicted)
  if machine.copied then factors.unshard = nil end -- is the exchange itself there
  return changed(machine, { spans = factors, split = plans / layers })
end

--- The machine, with numbers that make the simulated spans, and then steps, of some trainings last
-- as long as the measured ones. list: of parameters; results: of train, as many. beside: the result
-- of the first training with schedule neap, which none has in list, or nil.
function probes.fit(machine, list, results, beside)
  machine = with_spans(machine, list, results)
  if beside then
    machine.interference = spans.interference(results[1], beside, machine.latency)
  end
  local start, measured = {}, {}
  for i, name in ipairs(FITTED) do start[i] = machine[name] end
  for i = 1, #list do measured[i] = results[i].seconds end
  local values = require('neap.calibrate.fit').solve(start, function(values)
    local predicted = {}
    for i, p in ipairs(list) do
      predicted[i] = probes.predict(changed(machine, named(values)), p, results[i].trace)
    end
    return predicted
  end, measured)
  return changed(machine, named(values))
end

return probes

--- The ranks of neap calibrate and of neap bench predict: they measure the machine, fit it to some
-- steps of a small model, and perhaps train another model and tell how long it took and should
-- take.

local neap = require 'neap'
local lib = require 'neap.lib'
local failure = require 'neap.failure'
local json = require 'neap.json'
local measure = require 'neap.calibrate.measure'
local simulate = require 'neap.cluster.simulate'

local C = lib.C

-- What the machine is fitted to; another model than those that are predicted.
local PROBE = { hidden = 96, ffn = { 192 }, layers = 2, experts = 8, slots = 4, batch = 16,
  sequence = 96 }
local WARM_UP = 3
local POLICY = 'laer+minimax'

--- Parameters of a training: the trainer's defaults with changes, sums as fast as can be, and slots
-- enough for all experts.
local function params_of(job, changes)
  local p = {}
  for name, spec in pairs(neap.trainer.params) do p[name] = spec.default end
  p.exact = false
  for name, value in pairs(changes) do p[name] = value end
  p.slots = math.max(p.slots, math.ceil(p.experts / job.ranks))
  return p
end

--- Seconds of a training step for each of some parameters: medians of steps that are taken in turn,
-- so that what disturbs one training disturbs the others as well. Collective.
local function train(job, list, steps)
  local trainers, times = {}, {}
  for i, p in ipairs(list) do
    trainers[i] = neap.trainer.open { job = job, params = p, policy = POLICY,
      text = neap.text.schedule 'english' }
    times[i] = neap.metrics.series()
  end
  for step = 1, steps + WARM_UP do
    for i, trainer in ipairs(trainers) do
      job.comm:barrier()
      local began = C.neap_clock()
      trainer:step()
      if step > WARM_UP then times[i]:add(C.neap_clock() - began) end
    end
  end
  for i, trainer in ipairs(trainers) do
    trainer:close()
    times[i] = times[i]:quantile(0.5)
  end
  return times
end

--- Simulated seconds of a step.
local function predict(machine, p)
  local s = simulate.open { cluster = machine, model = measure.model(p, machine.ranks),
    policy = POLICY, schedule = 'laer' }
  local seconds = s:run(3).step_ms / 1e3
  s:close()
  return seconds
end

local function write(path, text)
  if path == '' then return io.stdout:write(text) end
  local file, why = io.open(path, 'w')
  if not file then failure.plain('%s', why) end
  file:write(text)
  file:close()
end

return neap.recipe.define {
  name = 'calibrate', doc = 'Measures this machine as a cluster description.',
  params = {
    steps = { default = 12, min = 1, integer = true, doc = 'training steps to measure' },
    out = { default = '', doc = "file to write; '' for stdout" },
    predict = { default = false, doc = 'predict the step of the quickstart, and measure it' },
  },

  run = function(_, job)
    local p, probe, quickstart = job.params, params_of(job, PROBE), params_of(job, {})
    local machine = measure.machine(job)
    local measured = train(job, p.predict and { probe, quickstart } or { probe }, p.steps)
    if job.rank ~= 0 then return end
    measure.fit(machine, measured[1], function(changed) return predict(changed, probe) end)
    if not p.predict then return write(p.out, measure.text(machine)) end
    write(p.out, json.encode { ranks = job.ranks, measured_ms = measured[2] * 1e3,
      predicted_ms = predict(machine, quickstart) * 1e3, machine = machine })
  end,
}

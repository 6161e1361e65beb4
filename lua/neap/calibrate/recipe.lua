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

--- Parameters of a training: the trainer's defaults with changes, and slots enough for all experts.
local function params_of(job, changes)
  local p = {}
  for name, spec in pairs(neap.trainer.params) do p[name] = spec.default end
  for name, value in pairs(changes) do p[name] = value end
  p.slots = math.max(p.slots, math.ceil(p.experts / job.ranks))
  return p
end

--- Seconds of the fastest of some training steps: the others were disturbed. Collective.
local function train(job, p, steps)
  local trainer = neap.trainer.open { job = job, params = p, policy = POLICY,
    text = neap.text.schedule 'english' }
  local times = neap.metrics.series()
  for i = 1, steps + WARM_UP do
    job.comm:barrier()
    local began = C.neap_clock()
    trainer:step()
    if i > WARM_UP then times:add(C.neap_clock() - began) end
  end
  trainer:close()
  return times:quantile(0)
end

--- Simulated seconds of a step.
local function predict(machine, p)
  local s = simulate.open { cluster = machine, model = measure.model(p, machine.ranks),
    policy = POLICY, schedule = 'laer' }
  local seconds = s:run(3).step_ms / 1e3
  s:close()
  return seconds
end

local function calibrate(job, steps)
  local machine, probe = measure.machine(job), params_of(job, PROBE)
  local measured = train(job, probe, steps)
  if job.rank ~= 0 then return nil end
  return measure.fit(machine, measured, function(changed) return predict(changed, probe) end)
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
    local p = job.params
    local machine = calibrate(job, p.steps)
    local quickstart = params_of(job, {})
    local measured = p.predict and train(job, quickstart, p.steps)
    if job.rank ~= 0 then return end
    if not p.predict then return write(p.out, measure.text(machine)) end
    write(p.out, json.encode { ranks = job.ranks, measured_ms = measured * 1e3,
      predicted_ms = predict(machine, quickstart) * 1e3, machine = machine })
  end,
}

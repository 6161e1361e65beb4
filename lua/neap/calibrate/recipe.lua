-- SPDX-License-Identifier: Apache-2.0

--- The ranks of neap calibrate and of neap bench predict: they measure the machine, fit it to some
-- steps of small trainings, and perhaps train another model and tell how long a step took and
-- should take.

local recipe = require 'neap.train.recipe'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local measure = require 'neap.calibrate.measure'
local probes = require 'neap.calibrate.probes'

local function write(path, text)
  if path == '' then return io.stdout:write(text) end
  outputs.write(path, text)
end

--- Sizes of the model whose steps are predicted: those of the trainer, with what was asked for.
local function target_of(job)
  local p, changes = job.params, {}
  for _, name in ipairs(measure.sizes) do
    if p[name] > 0 then changes[name] = p[name] end
  end
  if changes.ffn then changes.ffn = { changes.ffn } end
  return probes.params(job, changes)
end

local params = {
  steps = { default = 12, min = 1, integer = true, doc = 'training steps to measure' },
  output = { default = '', output = true, doc = "file to write; '' for stdout" },
  predict = { default = false, doc = 'predict the step of a training, and measure it' },
}
for _, name in ipairs(measure.sizes) do
  params[name] = { default = 0, min = 0, integer = true,
    doc = "of the model whose step is predicted; 0: the trainer's" }
end

--- Trainings to measure: those that the machine is fitted to, on GPUs of their own under schedule
-- none, so that nothing disturbs a span, and the first of them once more under neap, which tells by
-- how much it is disturbed; and the target. Returns the list, and where in it beside and target
-- are, or nil.
local function trainings(job, machine, target, predict)
  local list, all, beside = probes.around(job, target), {}, nil
  local alone = job.device == 'cuda' and not machine.shared
  for i, p in ipairs(list) do
    if alone then p.schedule = 'none' end
    all[i] = p
  end
  if alone and job.ranks > 1 then
    beside = #all + 1
    all[beside] = setmetatable({ schedule = 'neap' }, { __index = list[1] })
  end
  if predict then all[#all + 1] = target end
  return list, all, beside, predict and #all
end

--- Of every span of least seconds or more: measured and predicted ms.
local function compare(measured, predicted, least)
  local rows = {}
  for _, title in ipairs(lib.sorted_keys(measured)) do
    if measured[title] >= least then
      rows[#rows + 1] = { span = title, measured_ms = measured[title] * 1e3,
        predicted_ms = (predicted[title] or 0) * 1e3 }
    end
  end
  return rows
end

local LEAST = 0.01 -- of a step, that a span has to have to be compared

return recipe.define {
  name = 'calibrate', doc = 'Measures this machine as a cluster description.', params = params,

  run = function(_, job)
    local p, target = job.params, target_of(job)
    local machine = measure.machine(job, target.dtype)
    local list, all, beside, last = trainings(job, machine, target, p.predict)
    local results = probes.train(job, all, p.steps)
    if job.rank ~= 0 then return end
    machine = probes.fit(machine, list, results, beside and results[beside])
    if not p.predict then return write(p.output, measure.text(machine)) end
    local measured, fitted = results[last], {}
    for i, probe in ipairs(list) do
      fitted[i] = probes.predict(machine, probe, results[i].trace) / results[i].seconds
    end
    local seconds, spans = probes.predict(machine, target, measured.trace)
    write(p.output, json.encode { ranks = job.ranks, measured_ms = measured.seconds * 1e3,
      predicted_ms = seconds * 1e3, noise = measured.noise, fitted = fitted, machine = machine,
      spans = compare(measured.spans, spans, LEAST * measured.seconds) })
  end,
}

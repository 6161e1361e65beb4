--- The ranks of neap calibrate and of neap bench predict: they measure the machine, fit it to some
-- steps of small trainings, and perhaps train another model and tell how long a step took and
-- should take.

local recipe = require 'neap.train.recipe'
local json = require 'neap.base.json'
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
  out = { default = '', output = true, doc = "file to write; '' for stdout" },
  predict = { default = false, doc = 'predict the step of a training, and measure it' },
}
for _, name in ipairs(measure.sizes) do
  params[name] = { default = 0, min = 0, integer = true,
    doc = "of the model whose step is predicted; 0: the trainer's" }
end

return recipe.define {
  name = 'calibrate', doc = 'Measures this machine as a cluster description.', params = params,

  run = function(_, job)
    local p, target = job.params, target_of(job)
    local list, machine = probes.around(job, target), measure.machine(job, target.dtype)
    local all = { unpack(list) }
    if p.predict then all[#all + 1] = target end
    local results = probes.train(job, all, p.steps)
    if job.rank ~= 0 then return end
    machine = probes.fit(machine, list, results)
    if not p.predict then return write(p.out, measure.text(machine)) end
    local measured, fitted = results[#all], {}
    for i, probe in ipairs(list) do
      fitted[i] = probes.predict(machine, probe, results[i].trace) / results[i].seconds
    end
    write(p.out, json.encode { ranks = job.ranks, measured_ms = measured.seconds * 1e3,
      predicted_ms = probes.predict(machine, target, measured.trace) * 1e3,
      noise = measured.noise, fitted = fitted, machine = machine })
  end,
}

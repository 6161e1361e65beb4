--- Recipe of checkpoint_spec.lua: trains a small model under each policy of a list, on text that it
-- makes itself, and can end its process in the middle, as an accident would.

local neap = require 'neap'
local launcher = require 'neap.launcher'
local text = require 'random_text'

local small = {
  steps = 12, batch = 5, sequence = 8, layers = 2, hidden = 16, heads = 2, kv_heads = 1,
  experts = 7, top_k = 2, ffn = { 6, 12, 3, 9, 6, 15, 3 }, slots = 3, rate = 0.02, warmup = 2,
}
local params = neap.params.extend(neap.trainer.params, {
  policies = { default = { 'laer' }, doc = 'policies to train under, one after the other' },
  die = { default = 0, doc = 'the process is killed after so many steps of all trainings' },
  pause = { default = 0, doc = 'seconds of sleep after every step' },
  hurry = { default = false, doc = 'steps do not wait for checkpoints under way' },
  trace = { default = '', doc = 'routing trace of the last training' },
  own = { default = false, doc = 'with an optimizer, rates and a loss of its own' },
})
for name, value in pairs(small) do
  params[name] = neap.params.extend(params[name], { default = value })
end

--- Heavy-ball momentum in m; v counts the steps.
local function momentum(range)
  for i = 0, range.count - 1 do
    range.m[i] = 0.9 * range.m[i] + range.scale * range.grad[i]
    range.v[i] = range.v[i] + 1
    range.param[i] = range.param[i] - range.rate * range.m[i] / range.v[i]
      - range.rate * range.decay * range.param[i]
  end
end

local function rate(step)
  return 0.05 / step
end

--- Half the squared distance of the logits from 1 for the target and 0 for the rest.
local function half_square(logits, target, gradient, count)
  local sum = 0
  for i = 0, count - 1 do
    local miss = logits[i] - (i == target and 1 or 0)
    gradient[i], sum = miss, sum + miss * miss / 2
  end
  return sum
end

return neap.recipe.define {
  name = 'saved', doc = 'Trains a small model on random text.', ranks = 3, node_size = 2,
  params = params,
  run = function(_, job)
    local p, rows, steps = job.params, {}, 0
    for i, policy in ipairs(p.policies) do
      local trainer = neap.trainer.open { job = job, params = p, policy = policy,
        text = text, trace = p.trace ~= '' and i == #p.policies and p.trace or nil,
        update = p.own and momentum or nil, rate = p.own and rate or nil,
        loss = p.own and half_square or nil }
      while trainer.done < p.steps do
        trainer:step()
        if trainer.saver and not p.hurry then trainer.saver:close() end
        steps = steps + 1
        job:say(('trained %d step %d'):format(i, trainer.done))
        if p.pause > 0 then launcher.sleep(p.pause) end
        if steps == p.die and job.rank == 0 then os.execute 'kill -9 $PPID' end
      end
      rows[i] = trainer:summary()
      trainer:close()
    end
    job:report(neap.results.training(rows))
  end,
}
-- SPDX-License-Identifier: Apache-2.0

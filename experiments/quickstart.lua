-- SPDX-License-Identifier: Apache-2.0

--- Do a better layout of hot experts, and a better split of their tokens, balance the ranks, and
-- leave what is learned untouched?
--
-- Trains one MoE language model on real text under four policies, from the same seed and on the
-- same batches. The text switches from English to Go to French and Russian, so the experts that are
-- hot change on the way.
--
--   ./neap run experiments/quickstart.lua
--
-- Costs: 2 to 3 minutes on 2 cores, 0.5 GB of memory. Every size is a parameter (--help).

local neap = require 'neap'

local params = neap.params.extend(neap.trainer.params, {
  policies = { default = { 'static', 'laer', 'minimax', 'neap' }, doc = 'policies to compare' },
  steps = { default = 120, min = 1, integer = true, doc = 'optimizer steps' },
  text = { default = 'english,go@30,french+russian@60,english@90',
    doc = 'what to train on (corpora, files, folders, patterns), and from which step' },
  priced_on = { default = 'a100x32',
    doc = "where each training's steps are priced besides, on as many ranks; '' for nowhere" },
  trace = { default = 'quickstart.safetensors', output = true,
    doc = "file for the last policy's routing; '' for none" },
})

local MODEL, EXPERTS = 'mixtral-8x7b-e16k4', 16 -- whose layers are priced, with as many experts

local function train(job, policy, text, trace)
  local p = job.params
  local price = p.priced_on ~= '' and { cluster = p.priced_on,
    model = p.experts == EXPERTS and MODEL or nil } or nil
  local trainer = neap.trainer.open { job = job, params = p, policy = policy, text = text,
    trace = trace, price = price }
  local row = trainer:run()
  trainer:close()
  return row, trainer.trace
end

return neap.recipe.define {
  name = 'quickstart',
  doc = "Static, LAER, exact-split and Neap's own layouts on the same training run.",
  ranks = 8, node_size = 4,
  params = params,

  run = function(_, job)
    local p, rows = job.params, {}
    local text, trace = neap.text.schedule(p.text)
    for i, policy in ipairs(p.policies) do
      local last = i == #p.policies and p.trace ~= ''
      rows[i], trace = train(job, policy, text, last and p.trace)
    end
    job:report(neap.results.training(rows))
    if trace then
      job:say(('routing trace: %s; replay it: ./neap replay --trace %s --slots %d --node-size %d')
        :format(trace, trace, p.slots, job.node_size))
    end
  end,
}

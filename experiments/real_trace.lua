-- SPDX-License-Identifier: Apache-2.0

--- What does routing look like at a real size, while the text changes?
--
-- Trains a language model of 64 experts per layer, top-6, on real text that switches every so many
-- steps, and records its routing: the trace that policies are then replayed on.
--
--   ./neap run experiments/real_trace.lua --device=cuda --minutes=2
--   ./neap trace export real.safetensors real.csv.gz      -- smaller, for keeping
--
-- Costs: on one GPU 472 M parameters, 41 GB, and the minutes asked for. On the CPU the defaults are
-- small: a minute on 2 cores.

local neap = require 'neap'

--- A parameter of the trainer with other defaults: on the CPU, and on a GPU.
local function resized(name, small, large)
  local spec = neap.params.extend(neap.trainer.params[name], {})
  spec.default, spec.on_cuda = small, large
  return spec
end

local params = neap.params.extend(neap.trainer.params, {
  texts = { default = { 'english', 'french', 'russian' },
    doc = 'what to train on, one after the other and again: corpora, files; french+russian' },
  switch = { default = 10, on_cuda = 60, min = 1, integer = true, doc = 'steps of each text' },
  minutes = { default = 0, min = 0, doc = 'end after so long; 0: after the steps' },
  trace = { default = 'real.safetensors', output = true, doc = 'file for the routing' },
  policy = { default = 'minimax', doc = 'layout policy; the routing does not depend on it' },
  steps = resized('steps', 40, 100000),
  batch = resized('batch', 8, 32),
  sequence = resized('sequence', 64, 1024),
  layers = resized('layers', 3, 8),
  hidden = resized('hidden', 64, 768),
  heads = resized('heads', 4, 12),
  kv_heads = resized('kv_heads', 4, 12),
  ffn = resized('ffn', { 32 }, { 384 }),
  experts = resized('experts', 64, 64),
  top_k = resized('top_k', 6, 6),
  slots = resized('slots', 10, 10),
  rate = resized('rate', 1e-3, 6e-4),
  warmup = resized('warmup', 5, 50),
  exact = resized('exact', false, false),
  dtype = resized('dtype', 'f32', 'bf16'),
})

-- A text schedule names the switches of so many steps; later ones keep the last text.
local MOST_SWITCHES = 2000

--- The schedule 'english,french@60,russian@120,english@180,…', which describes itself in short.
local function text_of(p)
  local parts = {}
  for i = 0, math.min(math.ceil(p.steps / p.switch), MOST_SWITCHES) - 1 do
    local text = p.texts[i % #p.texts + 1]
    parts[i + 1] = i == 0 and text or ('%s@%d'):format(text, i * p.switch)
  end
  local text = neap.text.schedule(table.concat(parts, ','))
  local short = ('%s, in turn, %d steps each'):format(table.concat(p.texts, ', '), p.switch)
  function text.describe() return short end
  return text
end

return neap.recipe.define {
  name = 'real_trace',
  doc = 'Records the routing of a model of 64 experts per layer while its text changes.',
  ranks = 8, node_size = 4,
  params = params,

  run = function(_, job)
    local p = job.params
    local trainer = neap.trainer.open { job = job, params = p, policy = p.policy,
      text = text_of(p), trace = p.trace, seconds = p.minutes > 0 and p.minutes * 60 or nil }
    local row = trainer:run()
    local total, used = trainer.model:count()
    trainer:close()
    job:report(neap.results.training { row })
    job:say(('%d steps of a model of %.0f M parameters, %.0f M per token; routing trace: %s; '
      .. 'replay it: ./neap replay --trace %s --slots %d --node-size %d'):format(row.steps,
      total / 1e6, used / 1e6, trainer.trace, trainer.trace, p.slots, job.node_size))
  end,
}

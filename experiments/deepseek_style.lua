-- SPDX-License-Identifier: Apache-2.0

--- How much imbalance is left for a planner where the router balances itself: not at all, by an
-- auxiliary loss, or by biases that are moved after each step?
--
-- Trains one model three times, from the same seed and on the same batches, with what DeepSeek-V3
-- has: a first layer without experts, a shared expert, many small ones, scores that are sigmoids.
-- Records the routing of each, and replays it under layout policies.
--
--   ./neap run experiments/deepseek_style.lua
--   ./neap replay --trace deepseek-bias.safetensors      -- one of the three, under other policies
--
-- Costs: 5 minutes on 2 cores, 0.4 GB of memory. Every size is a parameter (--help).

local neap = require 'neap'
local text_table = require 'neap.base.text_table'

--- A parameter of the trainer with another default.
local function default(name, value)
  return neap.params.extend(neap.trainer.params[name], { default = value })
end

local params = neap.params.extend(neap.trainer.params, {
  ways = { default = { 'none', 'aux', 'bias' }, choices = { 'none', 'aux', 'bias' },
    doc = 'how the router is balanced: not, by --aux-loss, by biases (--bias-rate)' },
  policies = { default = { 'static', 'laer', 'minimax', 'neap' },
    doc = 'layout policies that each routing is replayed under' },
  text = { default = 'english,go@100,french+russian@200',
    doc = 'what to train on, and from which step' },
  trace = { default = 'deepseek', output = true,
    doc = "files for the routing: this, '-', the way and '.safetensors'" },
  steps = default('steps', 300),
  batch = default('batch', 8),
  layers = default('layers', 4),
  experts = default('experts', 32),
  top_k = default('top_k', 4),
  ffn = default('ffn', { 64 }),
  slots = default('slots', 6),
  scores = default('scores', 'sigmoid'),
  shared_experts = default('shared_experts', 1),
  dense_layers = default('dense_layers', 1),
  aux_loss = default('aux_loss', 0.01),
  bias_rate = default('bias_rate', 0.01),
})

--- The parameters of a training whose router is balanced in one way.
local function balanced_by(way, p)
  local values = {}
  for name in pairs(params) do values[name] = p[name] end
  values.aux_loss = way == 'aux' and p.aux_loss or 0
  values.bias_rate = way == 'bias' and p.bias_rate or 0
  return values
end

local function train(job, way)
  local p = job.params
  local trainer = neap.trainer.open { job = job, params = balanced_by(way, p), policy = 'static',
    text = neap.text.schedule(p.text), label = way,
    trace = ('%s-%s.safetensors'):format(p.trace, way) }
  local row = trainer:run()
  trainer:close()
  return { way = way, loss = row.loss, digest = row.digest, trace = trainer.trace }
end

--- Tokens of the hottest expert in units of the mean expert's: the mean over layers and steps.
local function hottest(trace, first)
  local all = neap.series.open()
  for layer = 0, trace.layers - 1 do
    local heat = neap.evaluate.heat(trace, layer)
    for step = first, trace.steps - 1 do
      local most = 0
      for expert = 0, trace.experts - 1 do most = math.max(most, heat.value(expert, step)) end
      all:add(most)
    end
  end
  return all:mean()
end

--- Adds to a training's result what its routing leaves to a policy, in all but the first tenth of
-- the steps: the hottest expert, and the busiest rank's work in units of the mean rank's.
local function replay(job, result)
  local trace = neap.trace.open(result.trace)
  local topology, first = neap.replay.open_topology({}, trace), math.ceil(trace.steps / 10)
  result.hottest, result.imbalance = hottest(trace, first), {}
  for _, policy in ipairs(job.params.policies) do
    local row = neap.replay.score { trace = trace, topology = topology, policy = policy,
      warm_up = first, seed = job.params.seed, deadline = job.deadline, strict = job.strict,
      in_process = job.in_process, trusted = job.trusted }
    result.imbalance[policy] = row.imbalance.mean
  end
  topology:close()
  trace:close()
end

local function text_of(results, policies)
  local heading, rows = { 'balanced by', 'loss', 'hottest expert', unpack(policies) }, {}
  for i, result in ipairs(results) do
    rows[i] = { result.way, ('%.3f'):format(result.loss), ('%.2f'):format(result.hottest) }
    for _, policy in ipairs(policies) do
      table.insert(rows[i], ('%.3f'):format(result.imbalance[policy]))
    end
  end
  return text_table.format(heading, rows) .. '\nHottest expert, and the busiest rank under each '
    .. 'policy: in units of the mean. Loss: nats per byte, mean of the last tenth.'
end

return neap.recipe.define {
  name = 'deepseek_style',
  doc = 'What balanced routers leave to planners: a model as DeepSeek-V3 is made.',
  ranks = 8, node_size = 4,
  params = params,

  run = function(_, job)
    local results, policies = {}, job.params.policies
    if job.params.trace == '' then
      neap.lib.raise('USAGE', '--trace is empty; what is replayed is read from files')
    end
    neap.session.check(policies, job.in_process, job.trusted)
    for i, way in ipairs(job.params.ways) do results[i] = train(job, way) end
    if job.rank ~= 0 then return end
    for _, result in ipairs(results) do replay(job, result) end
    job:report { text = text_of(results, policies), json = { rows = results } }
  end,
}

-- SPDX-License-Identifier: Apache-2.0

--- What are the constants of the model of the cluster fitted on, and do they still fit? Prints all
-- published figures that any constant of docs/paper.md was fitted on, beside what comes out with
-- it; with --search the deviations of routing that would fit best.
--
--   ./neap run experiments/paper/fit.lua --search
--
-- Costs: about half a minute; with --search five times that.

local neap = require 'neap'
local clusters = require 'neap.simulate.cluster'
local models = require 'neap.simulate.models'
local op_cost = require 'neap.simulate.op_cost'
local paper = require 'paper.runs'
local simulate = require 'neap.simulate'

local E16, E8 = 'mixtral-8x7b-e16k4', 'mixtral-8x7b-e8k2'
local LAYERS = 8 -- of a balance: all are alike

--- Max / mean tokens of a rank under a policy on a routing, mean over seeds.
local function imbalance(p, policy, model, load)
  return paper.average({ cluster = p.cluster, policy = policy, schedule = 'laer:hold_combine=true',
    model = models.describe(model, { layers = LAYERS, load = load }) }, p.steps, p.seeds)
    .imbalance.mean
end

--- e16k4's routing with another deviation and correlation.
local function load(of)
  return { sigma = of.sigma, tau = paper.load('e16k4', 'counted').tau, rho = of.rho }
end

--- Seconds of the experts' products of a step, mean over ranks.
local function expert_seconds(p, model)
  local s = simulate.open { cluster = p.cluster, model = models.describe(model,
    { load = paper.load(model:match 'e%d+k%d+$', 'counted') }), policy = 'static',
    schedule = 'laer:hold_combine=true', elementwise = 1e-9 }
  local row = s:run(1)
  s:close()
  return row.compute_ms.expert / 1e3
end

--- The sigma by which policy has an imbalance, to a hundredth.
local function search(p, of, target)
  local low, high = 0.3, 6
  for _ = 1, 9 do
    local middle = (low + high) / 2
    local got = imbalance(p, 'static', E16, load { sigma = middle, rho = of.rho })
    if got < target then low = middle else high = middle end
  end
  return (low + high) / 2
end

local function planner_ms(p)
  local first, each = op_cost.of(clusters.describe(p.cluster), models.describe(E8)):expert_line(0)
  return (first + 4096 * each) * 1e3
end

return neap.recipe.define {
  name = 'fit', doc = 'What the constants of the model are fitted on, and whether they fit.',
  params = neap.params.extend(paper.params, {
    search = { default = false, doc = 'look for the deviations of routing that fit best' },
  }),

  run = function(_, job)
    local p, rows, list, f = job.params, {}, {}, paper.fitted
    local function add(constant, figure, published, got)
      rows[#rows + 1] = { constant, figure, ('%.4g'):format(published), ('%.4g'):format(got),
        ('%+.1f'):format(100 * (got / published - 1)) }
      list[#list + 1] = { constant = constant, fitted_on = figure, published = published,
        simulated = got }
    end
    add('gemm, tile', 'experts of e16k4, s per step', paper.breakdown.e16k4.laer[2],
      expert_seconds(p, E16))
    add('gemm, tile', 'experts of e8k2, s per step', paper.breakdown.e8k2.laer[2],
      expert_seconds(p, E8))
    add('gemm, tile', "the planner's ms for 4096 tokens, e8k2", 6.7096, planner_ms(p))
    add('attention, host, passes', 'LAER on e8k2, counted routing, s per step',
      paper.published[E8].laer / 1e3,
      paper.score('laer', p.cluster, E8, p, { routing = 'counted' }).step_ms / 1e3)
    for _, model in ipairs { E16, E8 } do
      local kind = model:match 'e%d+k%d+$'
      for _, method in ipairs { 'fsdp+ep', 'laer' } do
        add('sigma, tau, rho of ' .. kind, ('%s, mean of all counts, max / mean'):format(method),
          paper.balance[kind][method], imbalance(p, method == 'laer' and method or 'static', model,
          paper.load(kind, 'counted')))
      end
    end
    add('sigma at the first counts', 'static, e16k4, micro-batches 1 to 9', paper.balance_first,
      imbalance(p, 'static', E16, load(f.first)))
    add('sigma at the last counts', 'static, e16k4, micro-batches 20 to 29',
      paper.balance_later.e16k4['fsdp+ep'], imbalance(p, 'static', E16, load(f.last)))
    add('rho at the last counts', 'LAER, e16k4, micro-batches 20 to 29',
      paper.balance_later.e16k4.laer, imbalance(p, 'laer', E16, load(f.last)))
    local note = 'Nothing else is fitted.'
    if p.search then
      note = ('sigma that fits best: %.2f at the first counts (in use: %.2f), %.2f at the last '
        .. '(%.2f)'):format(search(p, f.first, paper.balance_first), f.first.sigma,
        search(p, f.last, paper.balance_later.e16k4['fsdp+ep']), f.last.sigma)
    end
    paper.report(job, 'fit', { heading = { 'constants', 'fitted on', 'published', 'simulated',
      'off by %' }, rows = rows, document = { cluster = p.cluster, rows = list }, note = note })
  end,
}

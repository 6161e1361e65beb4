-- SPDX-License-Identifier: Apache-2.0

--- How well does each policy balance the ranks? Max / mean tokens of a rank on synthetic routing
-- whose parameters were calibrated on the published counts, beside the published balance; and on
-- the more skewed routing of the steps whose times were published.
--
--   ./neap run experiments/paper/balance.lua
--
-- Costs: about two minutes.

local neap = require 'neap'
local paper = require 'paper.runs'

-- The routing (runs.lua), and what was published on it.
local PARTS = {
  { routing = 'counted', published = paper.balance },
  { routing = 'last', published = paper.balance_later },
  { routing = 'timed', published = { e16k4 = {}, e8k2 = {} } },
}
local MODELS = { 'mixtral-8x7b-e16k4', 'mixtral-8x7b-e8k2' }

return neap.recipe.define {
  name = 'balance',
  doc = 'Balance of the policies, beside the published one.',
  params = neap.params.extend(paper.params, {
    methods = { default = { 'fsdp+ep', 'flexmoe', 'laer', 'laer+minimax', 'neap' },
      doc = 'systems to compare' },
  }),

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    for _, part in ipairs(PARTS) do
      for _, model in ipairs(MODELS) do
        local kind = model:match 'e%d+k%d+$'
        local bars = { kind .. ', ' .. part.routing }
        for _, method in ipairs(p.methods) do
          local f = paper.score(method, p.cluster, model, p, { routing = part.routing })
          local known = part.published[kind][method]
          rows[#rows + 1] = { kind, part.routing, method, ('%.3f'):format(f.imbalance.mean), known,
            ('%.1f'):format(f.std_percent), ('%.2f'):format(100 * f.inter_node_share) }
          list[#list + 1] = paper.figures(method, model, f)
          list[#list].published_imbalance, list[#list].routing = known, part.routing
          bars[#bars + 1] = f.imbalance.mean
        end
        data[#data + 1] = bars
      end
    end
    paper.report(job, 'balance', {
      heading = { 'model', 'routing', 'method', 'imbalance', 'published', 'std %',
        'inter-node %' },
      rows = rows, document = { cluster = p.cluster, rows = list },
      note = 'Planned and split for real, on synthetic routing. Published for last: the last ten '
        .. 'micro-batches of e16k4 that were counted.',
      chart = { title = 'Max / mean tokens of a rank', unit = '', series = p.methods, data = data },
    })
  end,
}

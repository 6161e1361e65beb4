--- How well does each policy balance the ranks? Max / mean tokens of a rank on synthetic routing
-- whose parameters were calibrated on the published counts, beside the published balance.
--
--   ./neap run experiments/paper/balance.lua

local neap = require 'neap'
local paper = require 'neap.paper'

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
    for _, model in ipairs(MODELS) do
      local kind = model:match 'e%d+k%d+$'
      local bars = { kind }
      for _, method in ipairs(p.methods) do
        local f, known = paper.score(method, p.cluster, model, p), paper.balance[kind][method]
        rows[#rows + 1] = { kind, method, ('%.3f'):format(f.imbalance), known,
          ('%.1f'):format(f.std_percent), ('%.2f'):format(100 * f.inter_node_share) }
        list[#list + 1] = paper.figures(method, model, f)
        list[#list].published_imbalance = known
        bars[#bars + 1] = f.imbalance
      end
      data[#data + 1] = bars
    end
    paper.report(job, 'balance', {
      heading = { 'model', 'method', 'imbalance', 'published', 'std %', 'inter-node %' },
      rows = rows, document = { cluster = p.cluster, rows = list },
      note = 'Planned and split for real, on synthetic routing.',
      chart = { title = 'Max / mean tokens of a rank', unit = '', series = p.methods, data = data },
    })
  end,
}

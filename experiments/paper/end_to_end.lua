--- How long does a training step take under each system, on the LAER-MoE paper's cluster?
--
-- Simulated, for the six models of the paper's artifact; published ratios of step times stand
-- beside it where there are any. All systems run on the same cluster description and the same
-- routing.
--
--   ./neap run experiments/paper/end_to_end.lua --model=all --json
--
-- Costs: about a minute for all models.

local neap = require 'neap'
local paper = require 'paper.runs'

local function against_laer(list, model, method)
  return list[model] and list[model][method] and list[model][method] / list[model].laer
end

--- Deviation of a ratio from the published one, in %.
local function deviation(ratio, published)
  return published and ('%+.1f'):format(100 * (ratio / published - 1))
end

local function row_of(model, method, f, laer)
  local ratio, published = f.step_ms / laer.step_ms, against_laer(paper.published, model, method)
  return {
    model, method, ('%.0f'):format(f.step_ms),
    paper.published[model] and paper.published[model][method], ('%.3f'):format(ratio),
    published and ('%.3f'):format(published), deviation(ratio, published),
    ('%.1f'):format(100 * f.utilization), ('%.1f'):format(100 * f.exposed),
    ('%.3f'):format(f.imbalance.mean), ('%.1f'):format(100 * f.share_of_ideal),
  }
end

return neap.recipe.define {
  name = 'end_to_end',
  doc = "Simulated step times of five systems on the paper's cluster.",
  params = neap.params.extend(paper.params, {
    model = { default = 'all', doc = 'model, list of models, or all' },
    methods = { default = paper.methods, doc = 'systems to compare' },
  }),

  run = function(_, job)
    local p, rows, list, data, scores = job.params, {}, {}, {}, {}
    for _, model in ipairs(paper.models(p.model)) do
      local key, bars = model:gsub('^qwen', 'mixtral'), { model } -- the same shapes
      local laer = scores[key .. 'laer'] or paper.score('laer', p.cluster, model, p)
      scores[key .. 'laer'] = laer
      for _, method in ipairs(p.methods) do
        local f = scores[key .. method] or paper.score(method, p.cluster, model, p)
        scores[key .. method] = f
        rows[#rows + 1] = row_of(model, method, f, laer)
        list[#list + 1] = paper.figures(method, model, f)
        list[#list].ratio_to_laer = f.step_ms / laer.step_ms
        list[#list].published_ratio_to_laer = against_laer(paper.published, model, method)
        bars[#bars + 1] = f.step_ms / 1e3
      end
      data[#data + 1] = bars
    end
    paper.report(job, 'end_to_end', {
      heading = { 'model', 'method', 'step ms', 'published ms', '/ laer', 'published / laer',
        'off by %', 'utilization %', 'exposed %', 'imbalance', '% of ideal' },
      rows = rows, document = { cluster = p.cluster, steps = p.steps, seeds = p.seeds,
        rows = list },
      note = 'Simulated, except for the columns "published".',
      chart = { title = 'Step time (simulated)', unit = 's', series = p.methods, data = data },
    })
  end,
}

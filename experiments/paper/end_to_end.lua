-- SPDX-License-Identifier: Apache-2.0

--- How long does a training step take under each system, on the LAER-MoE paper's cluster?
--
-- Simulated, for the six models of the paper's artifact; published ratios of step times stand
-- beside it where there are any. All systems run on the same cluster description and the same
-- routing.
--
--   ./neap run experiments/paper/end_to_end.lua --model=all --json
--
-- Costs: about five minutes for all models.

local neap = require 'neap'
local paper = require 'paper.runs'

--- How much a ratio is off from the published one, in %.
local function deviation(ratio, published)
  return ratio and published and 100 * (ratio / published - 1) or nil
end

local function percent(value)
  return value and ('%+.1f'):format(value)
end

--- The null model's ratio of a system to LAER: that of the 7B model of the same kind.
local function null_ratio(model, method)
  local same = paper.null_model(model)
  return same and paper.published_ratio(same, method)
end

local function ratio_text(entry)
  local text = ('%.3f'):format(entry.ratio_to_laer)
  if entry.method == 'laer' then return text end
  return ('%s (%.2f to %.2f)'):format(text, entry.ratio_low, entry.ratio_high)
end

local function entry_of(model, method, f, laer)
  local entry = paper.figures(method, model, f)
  entry.ratio_to_laer = f.step_ms / laer.step_ms
  entry.ratio_low, entry.ratio_high = paper.interval(f.step_ms_of, laer.step_ms_of)
  entry.published_ratio_to_laer = paper.published_ratio(model, method)
  entry.null_ratio_to_laer = null_ratio(model, method)
  return entry
end

--- What anchors a prediction: the published ratio of the 7B model of the same kind, times what the
-- simulation says that the model changes.
local function anchored(entry, list)
  local same = paper.null_model(entry.model)
  if not same or not entry.null_ratio_to_laer or entry.method == 'laer' then return nil end
  for _, other in ipairs(list) do
    if other.model == same and other.method == entry.method then
      return entry.null_ratio_to_laer * entry.ratio_to_laer / other.ratio_to_laer
    end
  end
end

local function row_of(e)
  local known = e.published_ratio_to_laer
  return {
    e.model, e.method, ('%.0f'):format(e.step_ms),
    paper.published[e.model] and paper.published[e.model][e.method], ratio_text(e),
    known and ('%.3f'):format(known), e.method ~= 'laer' and percent(deviation(e.ratio_to_laer,
      known)), e.null_ratio_to_laer and e.method ~= 'laer'
      and ('%.3f'):format(e.null_ratio_to_laer), e.method ~= 'laer'
      and percent(deviation(e.null_ratio_to_laer, known)),
    e.anchored_ratio_to_laer and ('%.3f'):format(e.anchored_ratio_to_laer),
    e.lean_gb and ('%.0f, %.0f'):format(e.lean_gb, e.engine_gb),
    ('%.1f'):format(100 * e.exposed), ('%.3f'):format(e.imbalance.mean),
    ('%.1f'):format(100 * e.share_of_ideal),
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
    local function score(method, model)
      local key = model:gsub('^qwen', 'mixtral') .. method -- the same shapes
      scores[key] = scores[key] or paper.score(method, p.cluster, model, p)
      return scores[key]
    end
    for _, model in ipairs(paper.models(p.model)) do
      local bars = { model }
      for _, method in ipairs(p.methods) do
        local f = score(method, model)
        local entry = entry_of(model, method, f, score('laer', model))
        entry.anchored_ratio_to_laer = anchored(entry, list)
        list[#list + 1], rows[#rows + 1] = entry, row_of(entry)
        bars[#bars + 1] = f.step_ms / 1e3
      end
      data[#data + 1] = bars
      job:say('end_to_end: ' .. model)
    end
    paper.report(job, 'end_to_end', {
      heading = { 'model', 'method', 'step ms', 'published ms', '/ laer', 'published / laer',
        'off by %', 'null / laer', 'null off by %', 'anchored / laer', 'GB', 'exposed %',
        'imbalance', '% of ideal' },
      rows = rows, document = { cluster = p.cluster, steps = p.steps, seeds = p.seeds,
        rows = list },
      note = 'Simulated, except for the columns "published" and "null". In brackets: the 5th and '
        .. '95th percentile of the seeds. null: the published ratio of the 7B model of the same '
        .. 'kind; anchored: that, times what the simulation says that the model changes. GB of a '
        .. 'rank: of a lean program, and of the engine as it is (`neap simulate --memory`).',
      chart = { title = 'Step time (simulated)', unit = 's', series = p.methods, data = data },
    })
  end,
}

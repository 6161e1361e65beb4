-- SPDX-License-Identifier: Apache-2.0

--- What is each part of LAER worth? Its planner without even replicas or without replicas by load,
-- its schedule without the order of exchanges; simulated, beside the published step times.
--
--   ./neap run experiments/paper/ablation.lua
--
-- Costs: about two minutes.

local neap = require 'neap'
local paper = require 'paper.runs'

local MODEL = 'mixtral-8x7b-e8k2'

local VARIANTS = {
  { 'laer', 'laer', {} },
  { 'no_even', 'laer', { policy = 'laer:no_even=true' } },
  { 'no_comm_opt', 'laer', { schedule = 'eager:hold_combine=true' } },
  { 'no_pq', 'laer', { policy = 'laer:no_pq=true' } },
  { 'fsdp+ep', 'fsdp+ep', {} },
  { 'laer + exact split', 'laer+minimax', {} },
  { "neap, laer's schedule", 'neap', { schedule = 'laer:hold_combine=true' } },
  { 'neap, all again', 'neap', { schedule = 'neap' } },
  { 'neap, two chunks', 'neap', { schedule = 'neap:recompute=true,chunks=2' } },
  { 'neap', 'neap', {} },
}

return neap.recipe.define {
  name = 'ablation',
  doc = 'What the parts of LAER, and of neap, are worth.',
  params = paper.params,

  run = function(_, job)
    local p, rows, list, data, base = job.params, {}, {}, {}, nil
    for i, variant in ipairs(VARIANTS) do
      local name, f = variant[1], paper.score(variant[2], p.cluster, MODEL, p, variant[3])
      local published = paper.ablation[name]
      base = base or f.step_ms
      local ratio, known = f.step_ms / base, published and published / paper.ablation.laer
      rows[i] = { name, ('%.0f'):format(f.step_ms), published, ('%.3f'):format(ratio),
        known and ('%.3f'):format(known), known and ('%+.1f'):format(100 * (ratio / known - 1)),
        ('%.3f'):format(f.imbalance.mean) }
      list[i] = paper.figures(name, MODEL, f)
      list[i].variant, list[i].ratio_to_laer, list[i].published_ratio_to_laer = name, ratio, known
      data[i] = { name, f.step_ms / 1e3, published and published / 1e3 }
    end
    paper.report(job, 'ablation', {
      heading = { 'variant', 'step ms', 'published ms', '/ laer', 'published / laer', 'off by %',
        'imbalance' },
      rows = rows, document = { cluster = p.cluster, model = MODEL, rows = list },
      note = 'Simulated, except for the columns "published".',
      chart = { title = 'Parts taken away, ' .. MODEL, unit = 's',
        series = { 'simulated', 'published' }, data = data },
    })
  end,
}

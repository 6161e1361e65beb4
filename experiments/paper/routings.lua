-- SPDX-License-Identifier: Apache-2.0

--- How much of a predicted ratio is the routing's? Ratios to LAER on the routing of all counts, of
-- the last ones, and of the micro-batches that were timed, if its skew goes on growing.
--
--   ./neap run experiments/paper/routings.lua
--
-- Costs: about two minutes.

local neap = require 'neap'
local paper = require 'paper.runs'

local ROUTINGS = { 'counted', 'last', 'timed', 'middle' }
local MODELS = { 'mixtral-8x7b-e8k2', 'mixtral-8x7b-e16k4' }

return neap.recipe.define {
  name = 'routings',
  doc = 'Ratios of step times to LAER, by routing.',
  params = neap.params.extend(paper.params, {
    methods = { default = { 'fsdp+ep', 'flexmoe', 'neap-equal', 'neap' },
      doc = 'systems to compare' },
  }),

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    for _, model in ipairs(MODELS) do
      for _, routing in ipairs(ROUTINGS) do
        local of = { routing = routing }
        local laer = paper.score('laer', p.cluster, model, p, of)
        local known = paper.published[model].laer
        local row = { model, routing, ('%.0f'):format(laer.step_ms),
          ('%+.1f'):format(100 * (laer.step_ms / known - 1)) }
        local bars = { model:match 'e%d+k%d+$' .. ', ' .. routing }
        for _, method in ipairs(p.methods) do
          local f = paper.score(method, p.cluster, model, p, of)
          local entry = paper.figures(method, model, f)
          entry.routing, entry.ratio_to_laer = routing, f.step_ms / laer.step_ms
          list[#list + 1], row[#row + 1] = entry, ('%.3f'):format(entry.ratio_to_laer)
          bars[#bars + 1] = entry.ratio_to_laer
        end
        rows[#rows + 1], data[#data + 1] = row, bars
      end
    end
    local heading = { 'model', 'routing', 'laer ms', 'off by %' }
    for _, method in ipairs(p.methods) do heading[#heading + 1] = method .. ' / laer' end
    paper.report(job, 'routings', { heading = heading, rows = rows,
      document = { cluster = p.cluster, rows = list },
      note = 'Simulated; off by: from the published time. Published ratios: fsdp+ep 1.355 and '
        .. '1.474, flexmoe 1.083 and 1.311 (e8k2, e16k4).',
      chart = { title = 'Step time / LAER (simulated)', unit = '', series = p.methods,
        data = data } })
  end,
}

-- SPDX-License-Identifier: Apache-2.0

--- Eight GPUs, a transformer of 1.2 B parameters: what the model of the cluster says about the four
-- metrics that a summary of the paper gives, and the ranges claimed there. The claims are not in
-- the paper's files.
--
--   ./neap run experiments/paper/seed_table.lua
--
-- Costs: a few seconds.

local neap = require 'neap'
local paper = require 'paper.runs'

local CLAIMED = { throughput = '1.45-1.69', utilization = '68 to 85', std = '30 to 10',
  communication = '25 to 12' }
local STATIC = 'fsdp+ep'

local function row_of(method, f, base)
  return { method, ('%.2f'):format(base.step_ms / f.step_ms), ('%.1f'):format(100 * f.utilization),
    ('%.1f'):format(f.std_percent), ('%.1f'):format(100 * f.exposed),
    ('%.3f'):format(f.imbalance.mean),
    ('%.1f'):format(100 * f.share_of_ideal), ('%.1f'):format(f.step_ms) }
end

return neap.recipe.define {
  name = 'seed_table',
  doc = '8 GPUs, 1.2 B parameters: throughput, utilization, balance, communication.',
  params = neap.params.extend(paper.params, {
    cluster = { default = 'a100x8', doc = paper.params.cluster.doc },
    model = { default = 'moe-1.2b', doc = 'model' },
    methods = { default = { STATIC, 'flexmoe', 'laer', 'neap' }, doc = 'systems to compare' },
  }),

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    local base, ideal = paper.score(STATIC, p.cluster, p.model, p), math.huge
    for i, method in ipairs(p.methods) do
      local f = method == STATIC and base or paper.score(method, p.cluster, p.model, p)
      ideal = math.min(ideal, f.ideal_ms)
      rows[i] = row_of(method, f, base)
      list[i] = paper.figures(method, p.model, f)
      list[i].throughput = base.step_ms / f.step_ms
      data[i] = { method, base.step_ms / f.step_ms, f.utilization, f.std_percent / 100, f.exposed }
    end
    rows[#rows + 1] = { 'ideal', ('%.2f'):format(base.step_ms / ideal), '100.0', '0.0', '0.0',
      '1.000', '100.0', ('%.1f'):format(ideal) }
    rows[#rows + 1] = { 'claimed (static to LAER)', CLAIMED.throughput, CLAIMED.utilization,
      CLAIMED.std, CLAIMED.communication }
    paper.report(job, 'seed_table', {
      heading = { 'method', 'throughput', 'utilization %', 'std of load %', 'communication %',
        'imbalance', '% of ideal', 'step ms' },
      rows = rows, document = { cluster = p.cluster, rows = list, claimed = CLAIMED },
      note = 'Simulated. communication: waiting for any exchange, slow ranks included.',
      chart = { title = '8 GPUs, 1.2 B parameters (simulated)', unit = '',
        series = { 'throughput', 'utilization', 'std of load', 'communication' }, data = data },
    })
  end,
}

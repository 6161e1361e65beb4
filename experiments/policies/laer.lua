-- SPDX-License-Identifier: Apache-2.0

--- LAER-MoE's planner (arXiv 2602.11686): replicas by greedy allocation, placed node by node, the
-- cheaper of two candidates, planned on the sum of the last steps; tokens split within the node.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Laer = policy.define {
  name = 'laer',
  doc = "LAER-MoE's planner and its lite split",
  params = plan.parameters('laer', 'no_even no_pq'),
  split = 'lite',
}

function Laer:plan(ctx)
  return plan.laer(ctx, self)
end

return Laer

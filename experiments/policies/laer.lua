--- LAER-MoE's planner (arXiv 2602.11686): replicas by greedy allocation, placed node by node, the
-- cheaper of two candidates, planned on the sum of the last steps; tokens split within the node.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local Laer = policy.define {
  name = 'laer',
  doc = "LAER-MoE's planner and its lite split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    no_even = { default = false, doc = 'without the candidate of even replicas' },
    no_pq = { default = false, doc = 'without the candidate of greedy replicas' },
  },
  split = 'lite',
}

function Laer:plan(ctx)
  return plan.laer(ctx, { window = self.window, no_even = self.no_even, no_pq = self.no_pq })
end

return Laer

--- Neap's own planner: a forecast from the last steps, each node with what its tokens need, layouts
-- that stay balanced when loads are not as forecast; and the exact split, which evens out the rest.
-- How it works and what it reaches: docs/planning.md.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Neap = policy.define {
  name = 'neap',
  doc = "Neap's planner and the exact split",
  params = plan.parameters('neap', 'effort samples locality'),
  split = 'minimax',
}

function Neap:plan(ctx)
  return plan.neap(ctx, {
    recall = self.window, effort = self.effort, samples = self.samples, locality = self.locality,
  })
end

return Neap

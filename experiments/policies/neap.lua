--- Neap's own planner: a forecast from the last steps, each node with what its tokens need, layouts
-- that stay balanced when loads are not as forecast; and the exact split, which evens out the rest.
-- How it works and what it reaches: docs/planning.md.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local Neap = policy.define {
  name = 'neap',
  doc = "Neap's planner and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    effort = { default = 500, min = 0, doc = 'changes that the search looks at, a cell of ranks' },
    samples = { default = 8, min = 0, integer = true, doc = 'disturbed loads a layout must carry' },
    locality = { default = 0.5, min = 0, max = 1, doc = '0: balance; 1: tokens on their node' },
  },
  split = 'minimax',
}

function Neap:plan(ctx)
  return plan.neap(ctx, {
    recall = self.window, effort = self.effort, samples = self.samples, locality = self.locality,
  })
end

return Neap

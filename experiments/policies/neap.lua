-- SPDX-License-Identifier: Apache-2.0

--- Neap's own planner: a forecast from the last steps, each node with what its tokens need, layouts
-- that stay balanced when loads are not as forecast; and the exact split, which evens out the rest.
-- How it works and what it reaches: docs/planning.md.
local plan = require('neap').plan
local policy = require 'neap.policy'

local params = plan.parameters('neap', 'effort locality change_price')
params.window.default = 8

local Neap = policy.define {
  name = 'neap',
  doc = "Neap's planner and the exact split",
  params = params,
  split = 'minimax',
}

function Neap:plan(ctx)
  return plan.neap(ctx, {
    recall = self.window, effort = self.effort, locality = self.locality,
    change_price = self.change_price, far_price = ctx.far_price,
    spread = ctx.current and 0 or nil, -- counts of the very step have no error
  })
end

return Neap

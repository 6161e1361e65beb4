-- SPDX-License-Identifier: Apache-2.0

--- EPLB (DeepSeek): replicas one by one to the expert with the most load per replica, packed to the
-- lightest rank with room; tokens split evenly over all replicas. With groups it is hierarchical:
-- groups of experts are packed to nodes first, and each stays within its node.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Eplb = policy.define {
  name = 'eplb',
  doc = "EPLB's planner and an even split",
  params = plan.parameters 'eplb',
  split = 'even',
}

function Eplb:plan(ctx)
  return plan.eplb(ctx, self)
end

return Eplb

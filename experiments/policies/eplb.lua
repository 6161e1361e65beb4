--- EPLB (DeepSeek): replicas one by one to the expert with the most load a replica, packed to the
-- lightest rank with room; tokens split evenly over all replicas. With groups it is hierarchical:
-- groups of experts are packed to nodes first, and each stays within its node.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local Eplb = policy.define {
  name = 'eplb',
  doc = "EPLB's planner and an even split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    groups = { default = 0, min = 0, integer = true, doc = 'groups that stay in a node; 0: none' },
    doubles = { default = true, doc = 'a rank may get an expert twice, as in the published code' },
  },
  split = 'even',
}

function Eplb:plan(ctx)
  return plan.eplb(ctx, { window = self.window, groups = self.groups, doubles = self.doubles })
end

return Eplb

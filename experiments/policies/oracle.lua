--- A bound, not a policy for training: plans on the counts of the very step, as if they were known
-- before. No policy that plans on history with the same planner can expect to do better.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Oracle = policy.define {
  name = 'oracle',
  doc = 'plans on the current counts: a bound',
  params = {
    planner = { default = 'laer', choices = plan.names(), doc = 'built-in planner that it asks' },
  },
  plans_on = 'current',
}

function Oracle:plan(ctx)
  return plan[self.planner](ctx, { window = 1 })
end

return Oracle

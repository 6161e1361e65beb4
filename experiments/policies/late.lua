--- Neap's layout, planned on history off the critical path, with one late slot per rank: it is
-- filled on the exact counts, for whoever accepts the transfer of one expert per rank on the
-- critical path. It shows what such a transfer would buy where slots are scarce.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Late = policy.define {
  name = 'late',
  doc = "neap's layout with one slot per rank filled on the exact counts",
  params = plan.parameters 'late',
  plans_on = 'both',
  split = 'minimax',
}

function Late:plan(ctx)
  if not ctx.current then return plan.neap(ctx, { recall = self.window }) end
  return plan.late(ctx, { load = ctx.history:last(), flows = self.flows })
end

return Late

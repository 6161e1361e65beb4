-- SPDX-License-Identifier: Apache-2.0

--- LAER's layout, planned on history, with the exact split of the current counts: what is left of
-- the imbalance is what no split can take away. The same as --policy=laer+minimax.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Minimax = policy.define {
  name = 'minimax',
  doc = "LAER's layout with the exact split",
  params = plan.parameters('laer', ''),
  split = 'minimax',
}

function Minimax:plan(ctx)
  return plan.laer(ctx, self)
end

return Minimax

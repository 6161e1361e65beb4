-- As counts.lua, without the hooks that save and restore what it counts.
local Forgets = require('neap.policy').define { name = 'forgets' }
function Forgets:plan(ctx)
  self.plans = (self.plans or 0) + 1
  local layout, experts = ctx:layout(), ctx.topology.experts
  for i = 0, ctx.topology.slots - 1 do layout:spread((i + self.plans) % experts, 1) end
  return layout
end
return Forgets
-- SPDX-License-Identifier: Apache-2.0

-- SPDX-License-Identifier: Apache-2.0

--- FlexMoE (Nie et al., 2023): small changes to the active layout. In every node the expert with
-- the most load per replica gains one and the one with the least loses one, while balance improves.
local plan = require('neap').plan
local policy = require 'neap.policy'

local FlexMoe = policy.define {
  name = 'flexmoe',
  doc = "FlexMoE's gradual changes and the lite split",
  params = plan.parameters 'flexmoe',
  split = 'lite',
}

function FlexMoe:plan(ctx)
  return plan.flexmoe(ctx, self)
end

return FlexMoe

-- SPDX-License-Identifier: Apache-2.0

--- FasterMoE (He et al., 2022): an expert is shadowed, that is put on every rank, as long as this
-- saves more compute on the slowest rank than sending its weights costs.
local plan = require('neap').plan
local policy = require 'neap.policy'

local FasterMoe = policy.define {
  name = 'fastermoe',
  doc = "FasterMoE's shadow experts and the lite split",
  params = plan.parameters 'fastermoe',
  split = 'lite',
}

function FasterMoe:plan(ctx)
  return plan.fastermoe(ctx, { load = ctx.history:mean(self.window), price = self.price,
    doubles = self.doubles })
end

return FasterMoe

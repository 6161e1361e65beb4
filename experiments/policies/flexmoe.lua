--- FlexMoE (Nie et al., 2023): small changes to the active layout. In every node the expert with
-- the most load a replica gains one and the one with the least loses one, while balance improves.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local FlexMoe = policy.define {
  name = 'flexmoe',
  doc = "FlexMoE's gradual changes and the lite split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    rounds = { default = 10, min = 0, integer = true, doc = 'changes a node and plan, at most' },
  },
  split = 'lite',
}

function FlexMoe:plan(ctx)
  return plan.flexmoe(ctx, { window = self.window, rounds = self.rounds })
end

return FlexMoe

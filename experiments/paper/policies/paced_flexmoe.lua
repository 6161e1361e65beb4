--- FlexMoE at the pace of a system in which an expert's parameters and optimizer state move when
-- its replicas change: one change in every node, now and then. For the paper's figures.
local plan = require 'neap.plan'
local policy = require 'neap.policy'

local Paced = policy.define {
  name = 'paced_flexmoe',
  doc = "FlexMoE's changes, one a node every few steps",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    rounds = { default = 1, min = 0, integer = true, doc = 'changes a node and plan, at most' },
    every = { default = 3, min = 1, integer = true, doc = 'steps from one plan to the next' },
  },
  split = 'lite',
}

function Paced:when(ctx)
  return ctx.step % self.every == 0
end

function Paced:plan(ctx)
  return plan.flexmoe(ctx, { window = self.window, rounds = self.rounds })
end

return Paced

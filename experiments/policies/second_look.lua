-- SPDX-License-Identifier: Apache-2.0

--- A policy on top of a known planner: it takes LAER's layout and tries some swaps of two slots,
-- keeping those that lower the predicted work of the busiest rank. A new idea costs a few lines.
local plan = require('neap').plan
local policy = require 'neap.policy'

local SecondLook = policy.define {
  name = 'second_look',
  doc = "LAER's layout, improved by random swaps",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    tries = { default = 20, min = 0, integer = true, doc = 'swaps to try' },
  },
}

local function random_slot(ctx)
  local rank = ctx.random:integer(ctx.topology.ranks)
  return rank, ctx.random:integer(ctx.topology:slots_of(rank))
end

function SecondLook:plan(ctx)
  local load = ctx.history:sum(self.window)
  local layout = plan.laer(ctx, { load = load })
  local best = ctx:cost(layout, load).max_work
  for _ = 1, self.tries do
    local rank, slot = random_slot(ctx)
    local other_rank, other_slot = random_slot(ctx)
    layout:swap(rank, slot, other_rank, other_slot)
    local work = ctx:cost(layout, load).max_work
    if work < best then
      best = work
    else
      layout:swap(rank, slot, other_rank, other_slot) -- back
    end
  end
  return layout
end

return SecondLook

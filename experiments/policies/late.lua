--- Neap's layout, planned on history off the critical path, with one late slot per rank: it is
-- filled on the exact counts, for whoever accepts the transfer of one expert per rank on the
-- critical path. It shows what such a transfer would buy where slots are scarce. As in EPIC, a late
-- change is made only if the time that it saves exceeds the time that it costs.
local plan = require('neap').plan
local policy = require 'neap.policy'

-- Forward, and the gradients of inputs and of weights: what a token that is not waited for saves.
local PASSES = 3

-- Of one A100 and the experts of Mixtral 8x7B, from its node and from others: 1100 to 2000.
local PRICE = 2400

local params = plan.parameters 'late'
params.window.default = 8 -- as neap's
params.price = { default = -1, min = -1, doc = "tokens that could be computed forward while an "
  .. "expert's weights are fetched; -1: what the described cluster and model say, else 2400" }

local Late = policy.define {
  name = 'late',
  doc = "neap's layout with one slot per rank filled on the exact counts",
  params = params,
  plans_on = 'both',
  split = 'minimax',
}

function Late:plan(ctx)
  if not ctx.current then return plan.neap(ctx, { recall = self.window }) end
  local load = ctx.history:last()
  local before = ctx:cost(ctx.previous, load).max_work
  local layout = plan.late(ctx, { load = load, tries = self.tries })
  local saved = before - ctx:cost(layout, load).max_work
  local price = self.price >= 0 and self.price or ctx.fetch_work or PRICE
  return PASSES * saved > price and layout or ctx.previous
end

return Late

-- SPDX-License-Identifier: Apache-2.0

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

-- The least price of a token across nodes, in tokens of the mean rank: as the planners have it.
local FAR = 0.3

local params = plan.parameters('late', 'tries')
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

--- What a layout makes the ranks wait for: the most work, and what crosses nodes at its price.
local function work_of(ctx, layout, load)
  local cost = ctx:cost(layout, load)
  return cost.max_work + math.max(ctx.far_price or 0, FAR) * cost.inter_node / ctx.topology.ranks
end

--- Most experts that the ranks of a node fetch together: where the links between nodes have a price
-- they share that. On a single node every rank has a link of its own.
local function fetches(ctx, layout)
  local t, most = ctx.topology, 1
  for node = 0, t.nodes - 1 do
    local count = 0
    for rank = t.first_rank[node], t.first_rank[node + 1] - 1 do
      for slot = 0, t:slots_of(rank) - 1 do
        count = count + (ctx.previous:holds(rank, layout:at(rank, slot)) and 0 or 1)
      end
    end
    most = t.nodes > 1 and math.max(most, count) or 1
  end
  return most
end

function Late:plan(ctx)
  if not ctx.current then
    -- From the layout before late changes: what these were good for is over.
    self.early = plan.neap(ctx, { recall = self.window, far_price = ctx.far_price,
      from = self.early })
    return self.early
  end
  if not self.early then return ctx.previous end -- so that neap begins with what it would
  local load = ctx.history:last()
  local layout = plan.late(ctx, { load = load, tries = self.tries, far_price = ctx.far_price })
  local saved = work_of(ctx, ctx.previous, load) - work_of(ctx, layout, load)
  local price = self.price >= 0 and self.price or ctx.fetch_work or PRICE
  if ctx.far_price then price = price * fetches(ctx, layout) end
  return PASSES * saved > price and layout or ctx.previous
end

return Late

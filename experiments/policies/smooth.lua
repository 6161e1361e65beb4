-- SPDX-License-Identifier: Apache-2.0

--- A policy with state: it smooths the load exponentially, and plans anew only when the layout in
-- force has become bad for the smoothed load. Fields of self are the state of one layer.
local policy = require 'neap.policy'

local Smooth = policy.define {
  name = 'smooth',
  doc = 'plans on an exponential mean, only when it pays',
  params = {
    weight = { default = 0.3, min = 0, max = 1, doc = 'of the newest load in the mean' },
    limit = { default = 1.02, min = 1, doc = 'imbalance that is not worth a new layout' },
  },
}

--- Called at every step: the place to keep the state up to date.
function Smooth:when(ctx)
  local newest = ctx.history:last()
  self.load = self.load and self.load:mix(newest, self.weight) or newest
  return ctx:cost(ctx.previous, self.load).imbalance > self.limit
end

function Smooth:plan(ctx)
  local layout = ctx:layout()
  for expert, count in ctx:replicas(self.load:by_expert()) do
    layout:spread(expert, count)
  end
  return layout
end

return Smooth

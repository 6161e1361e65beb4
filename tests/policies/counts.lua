-- A policy whose layouts depend on how often it has planned, which it keeps in a field, saves and
-- restores.
local Counts = require('neap.policy').define {
  name = 'counts', params = { fault = { default = '', doc = 'the hook that fails' } },
}
function Counts:plan(ctx)
  self.plans = (self.plans or 0) + 1
  local layout, order = ctx:layout(), {}
  for e = 0, ctx.topology.experts - 1 do order[e + 1] = (e + self.plans) % ctx.topology.experts end
  for i = 0, ctx.topology.slots - 1 do layout:spread(order[i % #order + 1], 1) end
  return layout
end
function Counts:save()
  if self.fault == 'save' then error 'save is told to fail' end
  return { plans = self.plans, large = 2 ^ 60 + 512, never = math.huge, list = { true, 'é"\n' } }
end
function Counts:restore(_, state)
  if self.fault == 'restore' then error 'restore is told to fail' end
  assert(state.large == 2 ^ 60 + 512 and state.never == math.huge)
  assert(state.list[1] == true and state.list[2] == 'é"\n')
  self.plans = state.plans
end
return Counts
-- SPDX-License-Identifier: Apache-2.0

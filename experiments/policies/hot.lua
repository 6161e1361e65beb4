--- The smallest useful policy: each hot expert gets more replicas, spread over nodes and ranks.
local Hot = require('neap.policy').define { name = 'hot' }
function Hot:plan(ctx)
  local layout, load = ctx:layout(), ctx.history:sum(5):by_expert()
  for expert, count in ctx:replicas(load) do layout:spread(expert, count) end
  return layout
end
return Hot
-- SPDX-License-Identifier: Apache-2.0

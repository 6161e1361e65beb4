-- Plans on history, and again on the counts of the very step: swaps two slots each time, the first
-- ones of ranks 0 and 1 on history, of ranks 2 and 3 on the counts. Fails if the history has a step
-- twice.
local Both = require('neap.policy').define { name = 'both', plans_on = 'both' }
function Both:plan(ctx)
  self.calls = (self.calls or 0) + 1
  assert(ctx.history:len() == math.ceil(self.calls / 2), 'a load came twice, or not at all')
  assert(ctx.current == (self.calls % 2 == 1), 'on the counts first')
  local rank = ctx.current and 2 or 0
  return ctx.previous:swap(rank, 0, rank + 1, 0)
end
return Both
-- SPDX-License-Identifier: Apache-2.0

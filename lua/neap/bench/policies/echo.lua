-- SPDX-License-Identifier: Apache-2.0

--- Answers at once with the active layout, and with a built-in split: what a round trip to a
-- policy costs by itself.
local Echo = require('neap.policy').define { name = 'echo' }

--- The active layout, as it is.
function Echo:plan(ctx)
  return ctx.previous
end

function Echo:split(ctx)
  return ctx:split 'lite'
end

return Echo

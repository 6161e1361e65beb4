-- Takes its time, well within the deadline.
local Slow = require('neap.policy').define { name = 'slow' }
function Slow:plan(ctx)
  require('neap.launcher').sleep(0.05)
  return require('neap.engine.plan').laer(ctx)
end
return Slow
-- SPDX-License-Identifier: Apache-2.0

-- Leaves processes behind, in sessions of their own; where that is allowed.
local Daemon = require('neap.policy').define { name = 'daemon' }
function Daemon:plan(ctx)
  os.execute 'setsid sh -c "setsid sleep 987653 & sleep 987653" >/dev/null 2>&1 &'
  os.execute 'sleep 0.2'
  return ctx.previous
end
return Daemon
-- SPDX-License-Identifier: Apache-2.0

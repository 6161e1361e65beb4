-- Starts more and more processes, half of them in sessions of their own; where that is allowed.
local Swarms = require('neap.policy').define { name = 'swarms' }
function Swarms:plan()
  while true do
    os.execute 'sleep 987652 & setsid sleep 987652 & sleep 0.01'
  end
end
return Swarms
-- SPDX-License-Identifier: Apache-2.0

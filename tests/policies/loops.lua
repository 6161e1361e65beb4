-- A plan hook that never ends.
local Loops = require('neap.policy').define { name = 'loops' }
function Loops:plan() while true do end end
return Loops
-- SPDX-License-Identifier: Apache-2.0

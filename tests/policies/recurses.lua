local Recurses = require('neap.policy').define { name = 'recurses' }
local function deeper(n) return 1 + deeper(n + 1) end
function Recurses:plan() return deeper(1) end
return Recurses
-- SPDX-License-Identifier: Apache-2.0

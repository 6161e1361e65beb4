-- Wants all memory.
local Eats = require('neap.policy').define { name = 'eats' }
function Eats:plan()
  local all = {}
  for i = 1, 1e6 do all[i] = ('x'):rep(2 ^ 28) .. i end
  return all
end
return Eats
-- SPDX-License-Identifier: Apache-2.0

-- Prints without end.
local Floods = require('neap.policy').define { name = 'floods' }
function Floods:plan()
  while true do print(('noise '):rep(100)) end
end
return Floods
-- SPDX-License-Identifier: Apache-2.0

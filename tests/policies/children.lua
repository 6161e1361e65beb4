-- Starts a process of its own and crashes.
local Children = require('neap.policy').define { name = 'children' }
function Children:plan()
  os.execute 'sleep 987654 &'
  os.exit(7)
end
return Children
-- SPDX-License-Identifier: Apache-2.0

-- Writes "RANK WORKER", the process ids, to the file that its parameter names, then never ends.
local Hangs = require('neap.policy').define {
  name = 'hangs',
  params = {
    path = { default = '', doc = 'file to write to' }, rank = { default = '', doc = 'first id' },
  },
}
function Hangs:plan()
  local stat = io.open '/proc/self/stat'
  local out = io.open(self.path, 'w')
  out:write(self.rank, ' ', stat:read '*a':match '^%d+', '\n')
  out:close()
  while true do end
end
return Hangs
-- SPDX-License-Identifier: Apache-2.0

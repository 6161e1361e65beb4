-- A plan hook that is stuck inside one call of the string library, where no Lua hook can stop it.
local Match = require('neap.policy').define { name = 'match' }
function Match:plan() return ('a'):rep(30000):match(('.-'):rep(40) .. 'b') end
return Match
-- SPDX-License-Identifier: Apache-2.0

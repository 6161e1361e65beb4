-- Chatters on stdout, which must not reach the results.
local Prints = require('neap.policy').define { name = 'prints' }
function Prints:plan(ctx)
  print 'noise from a policy'
  return ctx.previous
end
return Prints
-- SPDX-License-Identifier: Apache-2.0

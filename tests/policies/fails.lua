local Fails = require('neap.policy').define { name = 'fails' }
function Fails:plan(ctx)
  return ctx.nothing.here
end
return Fails
-- SPDX-License-Identifier: Apache-2.0

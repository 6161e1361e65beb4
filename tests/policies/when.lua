-- Plans at every third step.
local When = require('neap.policy').define { name = 'when', split = 'even' }
function When:when(ctx) return ctx.step % 3 == 0 end
function When:plan(ctx) return require('neap.engine.plan').laer(ctx) end
return When
-- SPDX-License-Identifier: Apache-2.0

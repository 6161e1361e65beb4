-- Plans on the counts of the very step.
local Current = require('neap.policy').define { name = 'current', plans_on = 'current' }
function Current:plan(ctx) return require('neap.engine.plan').laer(ctx, { window = 1 }) end
return Current
-- SPDX-License-Identifier: Apache-2.0

-- SPDX-License-Identifier: Apache-2.0

--- A random layout at every step: the floor that any policy must beat.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Random = policy.define { name = 'random', doc = 'a random layout', split = 'lite' }

function Random.plan(_, ctx)
  return plan.random(ctx)
end

return Random

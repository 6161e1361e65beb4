-- SPDX-License-Identifier: Apache-2.0

--- MaxText's dynamic redundancy: the hottest expert of the fullest rank gets a replica on the least
-- loaded one, while max / mean is above a threshold. In the source it plans on the current counts,
-- here on history.
local plan = require('neap').plan
local policy = require 'neap.policy'

local MaxText = policy.define {
  name = 'maxtext',
  doc = "MaxText's duplication and the exact split",
  params = plan.parameters 'maxtext',
}

function MaxText:plan(ctx)
  return plan.maxtext(ctx, self)
end

return MaxText

--- MaxText's dynamic redundancy: the hottest expert of the fullest rank gets a replica on the least
-- loaded one, while max / mean is above a threshold. In the source it plans on the current counts,
-- here on history.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local MaxText = policy.define {
  name = 'maxtext',
  doc = "MaxText's duplication and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    threshold = { default = 1.15, min = 1, doc = 'max / mean work that nothing is done about' },
  },
}

function MaxText:plan(ctx)
  return plan.maxtext(ctx, { window = self.window, threshold = self.threshold })
end

return MaxText

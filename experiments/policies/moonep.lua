--- MoonEP: the rank with the most work too much gives to the rank with the most room until one of
-- them is even, again and again. On current counts that makes all ranks even; here it plans on
-- history and the exact split does the rest.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local MoonEp = policy.define {
  name = 'moonep',
  doc = "MoonEP's giving and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
  },
}

function MoonEp:plan(ctx)
  return plan.moonep(ctx, { window = self.window })
end

return MoonEp

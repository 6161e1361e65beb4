-- SPDX-License-Identifier: Apache-2.0

--- MoonEP: the rank with the most room is filled whole by the home with the most work too much,
-- again and again. On current counts that makes all ranks even; here it plans on history and the
-- exact split does the rest.
local plan = require('neap').plan
local policy = require 'neap.policy'

local MoonEp = policy.define {
  name = 'moonep',
  doc = "MoonEP's filling and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    domain = { default = 'all', choices = { 'all', 'node' }, doc = 'ranks that exchange experts' },
  },
}

function MoonEp:plan(ctx)
  return plan.moonep(ctx, { window = self.window, nodes = self.domain == 'node' })
end

return MoonEp

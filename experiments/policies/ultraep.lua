-- SPDX-License-Identifier: Apache-2.0

--- UltraEP (arXiv 2606.04101): the least threshold of work under which overloaded ranks can export
-- quotas of their experts into free slots of others, by binary search. In the paper on current
-- counts, here on history.
local plan = require('neap').plan
local policy = require 'neap.policy'

local params = plan.parameters('ultraep', 'min_tokens')
params.domain = { default = 'all', choices = { 'all', 'node' },
  doc = 'ranks that exchange experts' }

local UltraEp = policy.define {
  name = 'ultraep',
  doc = "UltraEP's exports and the exact split",
  params = params,
}

function UltraEp:plan(ctx)
  return plan.ultraep(ctx, {
    load = ctx.history:mean(self.window), nodes = self.domain == 'node',
    min_tokens = self.min_tokens,
  })
end

return UltraEp

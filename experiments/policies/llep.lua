-- SPDX-License-Identifier: Apache-2.0

--- LLEP, least-loaded expert parallelism (arXiv 2601.17111): experts stay at home up to the even
-- share of their rank and spill the rest to the least loaded ranks. In the paper it plans on the
-- current counts, with the transfers on the critical path; here on history, so that they are
-- hidden.
local plan = require('neap').plan
local policy = require 'neap.policy'

local Llep = policy.define {
  name = 'llep',
  doc = "LLEP's spilling and the exact split",
  params = plan.parameters 'llep',
}

function Llep:plan(ctx)
  return plan.llep(ctx, {
    load = ctx.history:mean(self.window), alpha = self.alpha, chunk = self.chunk,
    lambda = self.lambda,
  })
end

return Llep

--- LLEP, least-loaded expert parallelism (arXiv 2601.17111): experts stay at home up to the even
-- share of their rank and spill the rest to the least loaded ranks. In the paper it plans on the
-- current counts, with the transfers on the critical path; here on history, so that they are
-- hidden.
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'

local Llep = policy.define {
  name = 'llep',
  doc = "LLEP's spilling and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    alpha = { default = 1, min = 0.01, doc = 'share of the mean work that a rank keeps' },
    chunk = { default = 1024, min = 0, doc = 'tokens that a spill moves at least' },
    lambda = { default = 1.3, min = 1, doc = 'max / mean work below which all stay at home' },
  },
}

function Llep:plan(ctx)
  return plan.llep(ctx, {
    load = ctx.history:mean(self.window), alpha = self.alpha, chunk = self.chunk,
    lambda = self.lambda,
  })
end

return Llep

-- SPDX-License-Identifier: Apache-2.0

--- Answers of the hook precision, right and wrong.

local policy = require 'neap.policy'

local Precise = policy.define { name = 'precise', params = {
  answer = { default = 'late', doc = 'which one' },
} }

local ANSWERS = {
  number = function() return 8 end,
  field = function() return { dispach = 'fp8' } end,
  word = function() return { unshard = 'fp4' } end,
  other = function() return 'bf16' end,
  raises = function() error 'on purpose' end,
  --- What waits goes in FP8; everything does once the loss is low.
  late = function(ctx)
    if #ctx.losses > 0 and ctx.losses[#ctx.losses] < 2 then return 'fp8' end
    if ctx.unshard_wait_ms and ctx.unshard_wait_ms > 0.1 then return { unshard = 'fp8' } end
  end,
}

function Precise:precision(ctx)
  return ANSWERS[self.answer](ctx)
end

return Precise

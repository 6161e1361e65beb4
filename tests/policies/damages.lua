-- Where it runs in the rank, it makes the engine of the process wrong: from its first plan on, or
-- with what=split, from its first split on, gradients are added to those of the step before.
local policy = require 'neap.policy'

local Damages = policy.define { name = 'damages',
  params = { what = { default = 'plan', doc = '' } } }

local function damage()
  local shards = require('neap.engine.shards').Shards
  local start = shards.reduce_start
  function shards.reduce_start(store, layout, gradients, slot_tokens)
    return start(store, layout, gradients, slot_tokens, true)
  end
end

function Damages:plan(ctx)
  if self.what == 'plan' and ctx.step == 1 and ctx.layer == 0 then damage() end
  return ctx.previous
end

function Damages:split(ctx)
  if self.what == 'split' and ctx.step == 1 and ctx.layer == 0 then damage() end
  return ctx:split 'minimax'
end

return Damages
-- SPDX-License-Identifier: Apache-2.0

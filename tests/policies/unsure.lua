-- Decides otherwise every time: its layouts or, with what=split, its amounts.
local policy = require 'neap.policy'
local clock = require('neap.base.lib').C.neap_clock

local Unsure = policy.define { name = 'unsure', params = { what = { default = 'plan', doc = '' } } }

local function chance()
  return math.floor(clock() * 1e7) % 5
end

function Unsure:plan(ctx)
  if self.what ~= 'plan' then return ctx.previous end
  for _ = 0, chance() do
    local r = ctx.random:integer(ctx.topology.ranks)
    ctx.previous:swap(r, 0, (r + 1) % ctx.topology.ranks, 0)
  end
  return ctx.previous
end

function Unsure:split(ctx)
  return ctx:split(self.what == 'split' and chance() % 2 == 0 and 'even' or 'minimax')
end

return Unsure
-- SPDX-License-Identifier: Apache-2.0

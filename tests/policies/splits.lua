-- Splits by hand, or wrongly.
local Splits = require('neap.policy').define {
  name = 'splits', params = { kind = { default = 'good', doc = 'which split' } },
}
local function by_hand(ctx, load, extra)
  local split = ctx:split()
  for expert = 0, ctx.topology.experts - 1 do
    local replicas = split:replicas(expert)
    for rank = 0, ctx.topology.ranks - 1 do
      local to = replicas[(rank + ctx.step) % #replicas + 1]
      split:send(rank, to[1], to[2], load:at(rank, expert) + extra)
    end
  end
  return split
end
local KINDS = {
  good = function(ctx, load) return by_hand(ctx, load, 0) end,
  rule = function() return 'even' end,
  filled = function(ctx) return ctx:split 'lite' end,
  more = function(ctx, load) return by_hand(ctx, load, 1) end,
  wrong = function() return 7 end,
  unknown = function() return 'minimx' end,
  loops = function() while true do end end,
  leaves = function() os.exit(3) end,
  sometimes = function(ctx, load) return ctx.step % 2 == 0 and by_hand(ctx, load, 0) or nil end,
}
function Splits:split(ctx, _, load)
  return KINDS[self.kind](ctx, load)
end
return Splits
-- SPDX-License-Identifier: Apache-2.0

-- SPDX-License-Identifier: Apache-2.0

--- Shapes of layers that reference figures exist for, and loads as wanted.

local tensor = require 'neap.engine.tensor'

local shapes = {
  TOKENS = 16384, -- of a rank
}

--- Experts, experts per token, H, F.
local KNOWN = {
  { experts = 8, top_k = 2, hidden = 4096, ffn = 14336 },
  { experts = 16, top_k = 4, hidden = 4096, ffn = 7168 },
  { experts = 64, top_k = 6, hidden = 2048, ffn = 1408 },
  { experts = 128, top_k = 8, hidden = 2048, ffn = 768 },
}

--- Exponent s of loads that fall as 1 / rank^s.
local LOADS = { balanced = 0, skewed = 0.6 }

local ROUNDS, STEP = 12, 0.7 -- of tuning, and of the logarithm of what is missing that one adds

--- p: parameters of the bench. Returns the shapes that --shape asks for, and the tokens of each.
function shapes.of(p)
  if p.shape == 'own' then
    return { { experts = p.experts, top_k = p.top_k, hidden = p.hidden, ffn = p.ffn } }, p.tokens
  end
  local list = {}
  for _, shape in ipairs(KNOWN) do
    if p.shape == 'all' or tonumber(p.shape) == shape.experts then list[#list + 1] = shape end
  end
  return list, shapes.TOKENS
end

--- Names of the loads that --load asks for.
function shapes.loads(p)
  return p.load == 'both' and { 'balanced', 'skewed' } or { p.load }
end

--- Tokens of each expert, of all ranks, as last routed.
local function tokens_of(layer, ranks, experts)
  local load, sums = layer:load(), {}
  for e = 1, experts do
    sums[e] = 0
    for r = 0, ranks - 1 do sums[e] = sums[e] + tonumber(load[r * experts + e - 1]) end
  end
  return sums
end

--- Largest load over the mean, as last routed.
function shapes.hottest(layer, ranks, experts)
  local sums, total = tokens_of(layer, ranks, experts), 0
  for _, tokens in ipairs(sums) do total = total + tokens end
  return math.max(unpack(sums)) * experts / total
end

--- Sets row 0 of the router (H, E), the bias of tokens whose first value is 1, so that loads fall
-- as the named ones do. route: routes all ranks' tokens. Collective; all ranks find the same row,
-- which is returned (1, E).
function shapes.tune(layer, ranks, experts, router, load, route)
  local total, bias, row = 0, {}, nil
  for e = 1, experts do
    total = total + e ^ -LOADS[load]
    bias[e] = 0
  end
  for _ = 1, ROUNDS do
    route()
    local sums, all = tokens_of(layer, ranks, experts), 0
    for e = 1, experts do all = all + sums[e] end
    for e = 1, experts do
      local wanted = all * e ^ -LOADS[load] / total
      bias[e] = bias[e] + STEP * math.log(wanted / math.max(1, sums[e]))
    end
    if row then row:close() end
    row = tensor.of(router.dtype, bias)
    router:copy(row, experts)
  end
  return row
end

return shapes

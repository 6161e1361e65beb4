-- SPDX-License-Identifier: Apache-2.0

--- Load sets of many kinds: odd topologies, few spare slots, fast drift, bursts, calm routing,
-- idle sources. All come from one model (neap.engine.synth: popularities that drift, ranks that
-- scatter around them), with what is special about a kind added to the log popularities.
--
--   kinds.names()             in order
--   kinds.open(name, seed)    { name, trace, topology }; the trace is in memory

local neap = require 'neap'

local lib = neap.lib
local ffi, C = lib.ffi, lib.C

local kinds = {}

-- Streams of random numbers, by what they are for; those of the synth are small and odd.
local DRIFT, OF_RANKS, OF_NODES, EVENT = 2 ^ 40, 2 ^ 41, 2 ^ 42, 2 ^ 43

--- ---- what is added to the log popularities z[experts] of a layer at a step --------------------

local function burst(s, step, layer, z)
  if step % 4 ~= 2 then return end
  local hit = math.floor(C.neap_random_uniform(s.seed, EVENT, step * 64 + layer) * s.experts)
  z[hit] = z[hit] + math.log(10)
end

--- Every so many steps experts change places.
local function permute(period)
  return function(s, step, layer, z)
    local era, order, was = math.floor(step / period), {}, {}
    for e = 0, s.experts - 1 do order[e], was[e] = e, z[e] end
    for e = s.experts - 1, 1, -1 do
      local key = (era * 64 + layer) * s.experts + e
      local other = math.floor(C.neap_random_uniform(s.seed, EVENT, key) * (e + 1))
      order[e], order[other] = order[other], order[e]
    end
    for e = 0, s.experts - 1 do z[e] = was[order[e]] end
  end
end

local function sine(period, height)
  return function(s, step, layer, z)
    for e = 0, s.experts - 1 do
      local phase = C.neap_random_uniform(s.seed, EVENT, layer * s.experts + e)
      z[e] = z[e] + height * math.sin(2 * math.pi * (step / period + phase))
    end
  end
end

local function grow(rate, count)
  return function(_, step, _, z)
    for e = 0, count - 1 do z[e] = z[e] + rate * step end
  end
end

--- Hot and cold change places in every step.
local function flip(s, step, _, z)
  if step % 2 == 1 then return end
  for e = 0, math.floor(s.experts / 2) - 1 do
    z[e], z[s.experts - 1 - e] = z[s.experts - 1 - e], z[e]
  end
end

local function half_dead(s, _, _, z)
  for e = s.experts / 2, s.experts - 1 do z[e] = z[e] - 60 end
end

--- All work is on one expert; another one every so many steps (nil: always the same).
local function one_expert(period)
  return function(s, step, layer, z)
    local era = period and math.floor(step / period) or 0
    local hot = math.floor(C.neap_random_uniform(s.seed, EVENT, era * 64 + layer) * s.experts)
    for e = 0, s.experts - 1 do z[e] = e == hot and 0 or -700 end
  end
end

--- ---- the kinds -------------------------------------------------------------------------------

-- ranks, ranks of a node, experts, slots of a rank; then what differs from the defaults.
local DEFAULTS = { sigma = 1, tau = 0.7, rho = 0.989, top_k = 4, tokens = 8192, layers = 4,
  steps = 25, rank_sigma = 0, node_sigma = 0 }

local function numbers(count, f)
  local list = {}
  for i = 1, count do list[i] = f(i - 1) end
  return list
end

local KINDS = {
  { 's01_n6g3_e10_c3', 6, 3, 10, 3, top_k = 2, tokens = 4096 },
  { 's02_n12g6_e20_c4', 12, 6, 20, 4, tokens = 4096 },
  { 's03_n20g8_e24_c3', 20, 8, 24, 3, tokens = 4096 },
  { 's04_n48g8_e64_c3', 48, 8, 64, 3, top_k = 8, tokens = 4096, layers = 2 },
  { 's05_n72g72_e128_c4', 72, 72, 128, 4, top_k = 8, tokens = 4096, layers = 2 },
  { 's06_n144g72_e256_c4', 144, 72, 256, 4, top_k = 8, tokens = 4096, layers = 1 },
  { 's07_n96g8_e160_c2', 96, 8, 160, 2, top_k = 6, tokens = 4096, layers = 2 },
  { 's08_n256g8_e256_c2', 256, 8, 256, 2, top_k = 8, tokens = 4096, layers = 1, steps = 20 },
  { 's09_n512g8_e256_c2', 512, 8, 256, 2, top_k = 8, tokens = 4096, layers = 1, steps = 12 },
  { 's10_n1024g8_e512_c2', 1024, 8, 512, 2, top_k = 8, tokens = 4096, layers = 1, steps = 9 },
  { 's11_n32g8_e40_c3', 32, 8, 40, 3, tokens = 4096 },
  { 's12_n32g8_e32_c1', 32, 8, 32, 1, tokens = 4096 },
  { 's13_n16g8_e31_c2', 16, 8, 31, 2, tokens = 4096 },
  { 's14_n32g8_e16_c4_k1', 32, 8, 16, 4, top_k = 1, tokens = 16384 },
  { 's15_n32g8_e32_c4_sig2', 32, 8, 32, 4, top_k = 2, sigma = 2 },
  { 's16_n32g8_e16_c4_rho8', 32, 8, 16, 4, sigma = 1.72, rho = 0.8 },
  { 's17_n32g8_e16_c4_rho5', 32, 8, 16, 4, sigma = 1.72, rho = 0.5 },
  { 's18_n32g8_e64_c4_rho8', 32, 8, 64, 4, top_k = 6, rho = 0.8 },
  { 's19_n32g8_e32_c4_burst', 32, 8, 32, 4, add = burst },
  { 's20_n32g8_e32_c4_perm7', 32, 8, 32, 4, steps = 40, add = permute(7) },
  { 's21_n32g8_e16_c4_tiny', 32, 8, 16, 4, top_k = 2, tokens = 16 },
  { 's22_n16g8_e16_c3_huge', 16, 8, 16, 3, top_k = 2, tokens = 1e7 },
  { 's23_n32g8_e32_c4_srcs', 32, 8, 32, 4, sigma = 0.7, tau = 0.2, rank_sigma = 1.5 },
  { 's24_n32g8_e16_c4_period6', 32, 8, 16, 4, steps = 40, add = sine(6, 1.5) },
  { 's25_n32g8_e32_c4_trend', 32, 8, 32, 4, steps = 30, add = grow(0.12, 2) },
  { 's26_n32g8_e32_c4_equal', 32, 8, 32, 4, steps = 12, layers = 2, equal = 256 },
  { 's27_n32g8_e16_c4_one', 32, 8, 16, 4, top_k = 1, steps = 12, layers = 2, add = one_expert() },
  { 's27b_n32g8_e16_c4_onemoves', 32, 8, 16, 4, top_k = 1, steps = 30, layers = 2,
    add = one_expert(5) },
  { 's28_n8g4_e8_c2_cost', 8, 4, 8, 2, top_k = 2, cost = { 0.5, 1, 1.5, 2, 0.7, 1.2, 1, 3 } },
  { 's29_n32g8_e16_c4_speed', 32, 8, 16, 4, speed = numbers(32, function(r)
    return r < 8 and 1 or r < 16 and 0.7 or r >= 20 and r < 24 and 0.5 or 1
  end) },
  { 's30_n32g8_e32_slots', 32, 8, 32, numbers(32, function(r)
    return ({ 2, 3, 4, 6 })[math.floor(r / 8) + 1]
  end) },
  { 's31_n32g8_e256_c9', 32, 8, 256, 9, top_k = 8, tokens = 4096, layers = 2 },
  { 's32_n144g8_e256_c2', 144, 8, 256, 2, top_k = 8, tokens = 1024, layers = 1 },
  { 's33_n16g8_e128_c9', 16, 8, 128, 9, top_k = 8, tokens = 4096, layers = 2 },
  { 's34_n64g8_e384_c7', 64, 8, 384, 7, top_k = 8, tokens = 4096, layers = 1 },
  { 's35_n32g8_e64_c4_nodes', 32, 8, 64, 4, top_k = 6, sigma = 0.7, node_sigma = 1.2 },
  { 's36_n8g8_e8_c2', 8, 8, 8, 2, top_k = 2 },
  { 's37_n128g8_e128_c2_sig15', 128, 8, 128, 2, top_k = 8, tokens = 4096, sigma = 1.5,
    layers = 1 },
  { 's38_n32g8_e64_c4_dead', 32, 8, 64, 4, add = half_dead },
  { 's39_n32g8_e32_c4_idle', 32, 8, 32, 4, idle = 16 },
  { 's40_n32g8_e16_c4_flip', 32, 8, 16, 4, top_k = 2, sigma = 1.5, add = flip },
  { 's41_n24g12_e16_c4_rho9', 24, 12, 16, 4, top_k = 2, sigma = 1.5, rho = 0.9 },
  { 's42_n16g4_e32_c3', 16, 4, 32, 3 },
  { 's43_n64g4_e64_c2_sig15', 64, 4, 64, 2, tokens = 4096, sigma = 1.5, layers = 2 },
  { 's44_n40g8_e60_c3_cs', 40, 8, 60, 3, top_k = 6, tokens = 4096, layers = 2,
    cost = numbers(60, function(e) return 0.5 + 1.5 * (e * 37 % 60) / 59 end),
    speed = numbers(40, function(r) return 0.8 + 0.4 * (r * 17 % 40) / 39 end) },
  { 's45_n32g8_e32_c4_onesource', 32, 8, 32, 4, sigma = 0, tau = 0, tokens = 25000, steps = 15,
    layers = 2, idle = 31 },
  { 's46_n32g8_e32_c4_calm', 32, 8, 32, 4, sigma = 0.1, tau = 0.1 },
  { 's47_n32g8_e64_c8_calm', 32, 8, 64, 8, top_k = 6, sigma = 0.2, tau = 0.2 },
  { 's48_n32g8_e32_c5_calm', 32, 8, 32, 5, sigma = 0.2, tau = 0.2 },
  { 's49_n16g8_e16_c2_calm', 16, 8, 16, 2, top_k = 2, sigma = 0.3, tau = 0.3 },
  { 's50_n64g8_e128_c4_iid', 64, 8, 128, 4, top_k = 8, tokens = 4096, rho = 0, layers = 1 },
}

function kinds.names()
  local list = {}
  for i, kind in ipairs(KINDS) do list[i] = kind[1] end
  return list
end

--- ---- loads -----------------------------------------------------------------------------------

--- z[layers * experts], one step on.
local function drift(s, step, z)
  local fresh = step == 0 and s.sigma or math.sqrt(1 - s.rho * s.rho) * s.sigma
  for i = 0, s.layers * s.experts - 1 do
    z[i] = (step == 0 and 0 or s.rho * z[i])
      + fresh * C.neap_random_normal(s.seed, DRIFT, step * s.layers * s.experts + i)
  end
end

--- Every rank with a lasting popularity of its own.
local function draw_ranks(s, settings, step, layer, z, out)
  local own = ffi.new('double[?]', s.experts)
  settings.ranks = 1
  for r = 0, s.ranks - 1 do
    local node = math.floor(r / s.node)
    for e = 0, s.experts - 1 do
      own[e] = z[e]
        + s.rank_sigma * C.neap_random_normal(s.seed, OF_RANKS + layer, r * s.experts + e)
        + s.node_sigma * C.neap_random_normal(s.seed, OF_NODES + layer, node * s.experts + e)
    end
    settings.stream = 2 * (layer + s.layers * r) + 1
    lib.check(C.neap_synth_load(settings, own, step, out + r * s.experts))
  end
end

local function draw(s, step, layer, z, out)
  local settings = ffi.new('neap_synth', { ranks = s.ranks, experts = s.experts, top_k = s.top_k,
    tokens = s.tokens, tau = s.tau, seed = s.seed, stream = 2 * layer + 1 })
  if s.rank_sigma + s.node_sigma > 0 then
    draw_ranks(s, settings, step, layer, z, out)
  else
    lib.check(C.neap_synth_load(settings, z, step, out))
  end
  if s.idle then ffi.fill(out + (s.ranks - s.idle) * s.experts, 8 * s.idle * s.experts) end
end

local function load(s, step, layer, popularity, out)
  if s.equal then
    for i = 0, s.ranks * s.experts - 1 do out[i] = s.equal end
    return
  end
  local z = ffi.new('double[?]', s.experts)
  ffi.copy(z, popularity + layer * s.experts, 8 * s.experts)
  if s.add then s.add(s, step, layer, z) end
  draw(s, step, layer, z, out)
end

--- What replay reads: all loads in one block.
local function make_trace(s)
  local cells = s.ranks * s.experts
  local loads = ffi.new('int64_t[?]', s.steps * s.layers * cells)
  local popularity = ffi.new('double[?]', s.layers * s.experts)
  for step = 0, s.steps - 1 do
    drift(s, step, popularity)
    for layer = 0, s.layers - 1 do
      load(s, step, layer, popularity, loads + (step * s.layers + layer) * cells)
    end
  end
  return { steps = s.steps, layers = s.layers, ranks = s.ranks, experts = s.experts,
    load = function(_, step, layer, out)
      ffi.copy(out, loads + (step * s.layers + layer) * cells, 8 * cells)
      return out
    end }
end

--- The set of that name, or one whose name starts so.
function kinds.open(name, seed)
  for i, kind in ipairs(KINDS) do
    if kind[1]:sub(1, #name) == name then
      local s = { seed = seed * 64 + i, ranks = kind[2], node = kind[3], experts = kind[4] }
      for key, value in pairs(DEFAULTS) do s[key] = kind[key] or value end
      for _, key in ipairs { 'add', 'idle', 'equal' } do s[key] = kind[key] end
      return { name = kind[1], trace = make_trace(s), topology = neap.topology.open {
        ranks = s.ranks, node_size = s.node, experts = s.experts, slots = kind[5],
        cost = kind.cost, speed = kind.speed } }
    end
  end
  error(("no kind is called '%s'; there are: %s"):format(name, table.concat(kinds.names(), ' ')), 0)
end

return kinds

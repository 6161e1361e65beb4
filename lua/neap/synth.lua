--- Synthetic routing: load matrices of the model that shared load sets are made with.
--
--   local s = synth.open { ranks = 32, experts = 16, top_k = 4, tokens = 16384, layers = 24,
--                          sigma = 1.72, tau = 0.77, rho = 0.989, seed = 1 }
--   s:load(step, layer)      -- int64_t[ranks * experts]; steps in order, any layer
-- Model: the log of an expert's popularity is an autoregressive process over steps, of standard
-- deviation sigma and correlation rho; every rank multiplies it with log-normal noise (tau), anew
-- in every step. A token takes an expert at most once: probabilities are cut at 1. The counts are
-- normal with a binomial's variance, rounded, and add up to tokens x top_k on every rank.
-- Values depend on (seed, step, layer, rank, expert) alone.

local lib = require 'neap.lib'

local ffi, C = lib.ffi, lib.C

local synth = {}

--- Parameters that were calibrated on published counts of tokens: experts of top-4 of 16, and
-- top-2 of 8; wide: a guess for many experts.
synth.presets = {
  e16k4 = { experts = 16, top_k = 4, sigma = 1.72, tau = 0.77, rho = 0.989 },
  e8k2 = { experts = 8, top_k = 2, sigma = 0.66, tau = 0.665, rho = 0.9875 },
  wide = { experts = 256, top_k = 8, sigma = 1.0, tau = 0.7, rho = 0.989 },
}

local RANGES = {
  ranks = { 1, 2 ^ 20 }, experts = { 1, 2 ^ 20 }, top_k = { 1, 2 ^ 20 }, tokens = { 0, 2 ^ 31 },
  layers = { 1, 2 ^ 20 }, sigma = { 0, 10 }, tau = { 0, 10 }, rho = { 0, 1 }, seed = { 0, 2 ^ 52 },
}

local Synth = {}
Synth.__index = Synth

local function check(options)
  for _, name in ipairs(lib.sorted_keys(options)) do
    if not RANGES[name] then
      lib.raise('ARGUMENT', ("synth: unknown option '%s'%s"):format(name,
        lib.hint(name, lib.sorted_keys(RANGES))), 3)
    end
  end
  for name, range in pairs(RANGES) do
    local value = options[name]
    if type(value) ~= 'number' or not (value >= range[1] and value <= range[2]) then
      lib.raise('ARGUMENT', ('synth: %s is %s; allowed are %g to %g'):format(name, tostring(value),
        range[1], range[2]), 3)
    end
  end
  if options.top_k > options.experts then
    lib.raise('ARGUMENT', ('synth: top_k is %d; there are %d experts'):format(options.top_k,
      options.experts), 3)
  end
end

function synth.open(options)
  check(options)
  local self = setmetatable({}, Synth)
  for name, value in pairs(options) do self[name] = value end
  self.step = -1
  self.popularity = ffi.new('double[?]', self.layers * self.experts)
  self.share = ffi.new('double[?]', self.experts)
  return self
end

--- Brings the popularities to a step.
local function go_to(self, step)
  if step < self.step then
    lib.raise('ARGUMENT', ('synth: step %d after step %d'):format(step, self.step), 3)
  end
  local cells, fresh = self.layers * self.experts, math.sqrt(1 - self.rho * self.rho)
  while self.step < step do
    self.step = self.step + 1
    local keep, new = self.rho, fresh * self.sigma
    if self.step == 0 then keep, new = 0, self.sigma end
    for i = 0, cells - 1 do
      self.popularity[i] = keep * self.popularity[i]
        + new * C.neap_random_normal(self.seed, 0, self.step * cells + i)
    end
  end
end

--- Scales share[experts] so that it adds up to total with no value above 1.
local function cut(share, experts, total)
  for _ = 1, experts do
    local sum, full = 0, 0
    for e = 0, experts - 1 do
      if share[e] < 1 then sum = sum + share[e] else full = full + 1 end
    end
    if sum == 0 then return end
    local scale, over = (total - full) / sum, false
    for e = 0, experts - 1 do
      if share[e] < 1 then
        share[e] = math.min(1, share[e] * scale)
        over = over or share[e] == 1
      end
    end
    if not over then return end
  end
end

--- Adds what is missing to the counts with the largest shares that have room, or takes it away.
local function settle(self, row, missing)
  local share, tokens = self.share, self.tokens
  while missing ~= 0 do
    local best, most = -1, -1
    for e = 0, self.experts - 1 do
      local room = missing > 0 and tokens - tonumber(row[e]) or tonumber(row[e])
      if room > 0 and share[e] > most then best, most = e, share[e] end
    end
    local count = tonumber(row[best])
    local change = missing > 0 and math.min(missing, tokens - count) or math.max(missing, -count)
    row[best] = count + change
    share[best] = 0
    missing = missing - change
  end
end

local function fill(self, layer, rank, row)
  local share, experts, tokens = self.share, self.experts, self.tokens
  local key = (self.step * self.ranks + rank) * experts
  local sum, total = 0, 0
  for e = 0, experts - 1 do
    share[e] = math.exp(self.popularity[layer * experts + e]
      + self.tau * C.neap_random_normal(self.seed, 2 * layer + 1, key + e))
    sum = sum + share[e]
  end
  for e = 0, experts - 1 do share[e] = math.min(0.999999, share[e] * self.top_k / sum) end
  cut(share, experts, self.top_k)
  for e = 0, experts - 1 do
    local noise = C.neap_random_normal(self.seed, 2 * layer + 2, key + e)
    local count = tokens * share[e] + noise * math.sqrt(tokens * share[e] * (1 - share[e]))
    count = math.max(0, math.min(tokens, math.floor(count + 0.5)))
    row[e], total = count, total + count
  end
  settle(self, row, tokens * self.top_k - total)
end

--- out: int64_t[ranks * experts] to write to, else a new one.
function Synth:load(step, layer, out)
  if step ~= self.step then go_to(self, step) end
  out = out or ffi.new('int64_t[?]', self.ranks * self.experts)
  for rank = 0, self.ranks - 1 do fill(self, layer, rank, out + rank * self.experts) end
  return out
end

return synth

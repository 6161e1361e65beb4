-- SPDX-License-Identifier: Apache-2.0

--- Synthetic routing: load matrices of the model that shared load sets are made with.
--
--   local s = synth.open { ranks = 32, experts = 16, top_k = 4, tokens = 16384, layers = 24,
--                          sigma = 1.72, tau = 0.77, rho = 0.989, seed = 1 }
--   s:load(step, layer)      -- int64_t[ranks * experts]; steps in order, any layer
-- Model: the log of an expert's popularity is an autoregressive process over steps, of standard
-- deviation sigma and correlation rho; every rank multiplies it with log-normal noise (tau), anew
-- in every step. A token takes an expert at most once: probabilities are cut at 1. The counts have
-- a binomial's mean and variance, are rounded, and add up to tokens x top_k on every rank.
-- Values depend on (seed, step, layer, rank, expert) alone.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'

local ffi, C = lib.ffi, lib.C

local synth = {}

--- Parameters that were calibrated on published counts of tokens: experts of top-4 of 16, and
-- top-2 of 8; wide: a guess for many experts.
synth.presets = {
  e16k4 = { experts = 16, top_k = 4, sigma = 1.72, tau = 0.77, rho = 0.989 },
  e8k2 = { experts = 8, top_k = 2, sigma = 0.66, tau = 0.665, rho = 0.9875 },
  wide = { experts = 256, top_k = 8, sigma = 1.0, tau = 0.7, rho = 0.989 },
}

local SPEC = {
  ranks = { min = 1, max = 2 ^ 20 }, experts = { min = 1, max = 2 ^ 20 },
  top_k = { min = 1, max = 2 ^ 20 }, tokens = { min = 0, max = 2 ^ 31 },
  layers = { min = 1, max = 2 ^ 20 }, sigma = { min = 0, max = 10 }, tau = { min = 0, max = 10 },
  rho = { min = 0, max = 1 }, seed = { min = 0, max = 2 ^ 52 },
}
for _, field in pairs(SPEC) do field.needed = true end

local Synth = {}
Synth.__index = Synth

--- Synthetic loads; the fields are told above.
-- : table -> Synth
function synth.open(given)
  local self = setmetatable(options.check(given, SPEC, 'synth'), Synth)
  if self.top_k > self.experts then
    lib.raise('ARGUMENT', ('synth: top_k is %d; there are %d experts'):format(self.top_k,
      self.experts), 2)
  end
  self.step = -1
  self.popularity = ffi.new('double[?]', self.layers * self.experts)
  self.settings = ffi.new('neap_synth', { ranks = self.ranks, experts = self.experts,
    top_k = self.top_k, tokens = self.tokens, tau = self.tau, seed = self.seed })
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

--- out: int64_t[ranks * experts] to write to, else a new one.
-- : integer, integer, int64_t[ranks * experts]? -> int64_t[ranks * experts]
function Synth:load(step, layer, out)
  if step ~= self.step then go_to(self, step) end
  out = out or ffi.new('int64_t[?]', self.ranks * self.experts)
  self.settings.stream = 2 * layer + 1
  lib.check(C.neap_synth_load(self.settings, self.popularity + layer * self.experts, step, out))
  return out
end

--- Mean over steps and layers of the hottest expert's load / the mean expert's.
local function hottest_share(given, steps)
  local made, sum = synth.open(given), 0
  local load = ffi.new('int64_t[?]', made.ranks * made.experts)
  local by_expert = ffi.new('double[?]', made.experts)
  for step = 0, steps - 1 do
    for layer = 0, made.layers - 1 do
      made:load(step, layer, load)
      ffi.fill(by_expert, made.experts * 8)
      local most, total = 0, 0
      for i = 0, made.ranks * made.experts - 1 do
        local e, tokens = i % made.experts, tonumber(load[i])
        by_expert[e], total = by_expert[e] + tokens, total + tokens
      end
      for e = 0, made.experts - 1 do most = math.max(most, by_expert[e]) end
      sum = sum + (total > 0 and most * made.experts / total or 1)
    end
  end
  return sum / (steps * made.layers)
end

--- The sigma with which the loads of so many steps have a given max / mean over experts, to 0.1 %;
-- found by bisection over draws of the same seed. given: as synth.open, sigma is not read.
-- Raises ARGUMENT if no sigma from 0 to 10 gives it.
-- : table, number, integer -> number
function synth.sigma_for(given, max_over_mean, steps)
  local function share(sigma)
    local tried = {}
    for name, value in pairs(given) do tried[name] = value end
    tried.sigma = sigma
    return hottest_share(tried, steps)
  end
  local low, high = 0, 10
  local least, most = share(low), share(high)
  if max_over_mean < least * 0.999 or max_over_mean > most * 1.001 then
    lib.raise('ARGUMENT', ('synth: a max / mean of %g cannot be reached; with this seed, top_k and '
      .. 'tau it is %.4g to %.4g'):format(max_over_mean, least, most), 2)
  end
  for _ = 1, 60 do
    local middle = 0.5 * (low + high)
    local got = share(middle)
    if math.abs(got - max_over_mean) <= 1e-3 * max_over_mean then return middle, got end
    if got < max_over_mean then low = middle else high = middle end
  end
  return 0.5 * (low + high), share(0.5 * (low + high))
end

return synth

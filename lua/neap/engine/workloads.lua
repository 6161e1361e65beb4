-- SPDX-License-Identifier: Apache-2.0

--- The workloads W0 to W7 of the public token-imbalance benchmark for MoE layers
-- (NVIDIA/Megatron-LM, pull request 7488): which experts every token chooses, by rule and seed.
--
--   local w = workloads.open { name = 'W1', ranks = 32, experts = 64, top_k = 6, tokens = 8192,
--                              layers = 1, seed = 1 }
--   w:load(step, layer)      -- int64_t[ranks * experts]
--   workloads.DOCS.W1        -- what it is, in a line
-- Token t of a rank takes top_k distinct experts, uniformly from a pool; hot: the first
-- max(top_k, experts / 4) experts. The pools are
--   W0  none: choice j is expert t x top_k + j, cyclically
--   W1  the hot experts, but all for every fourth token; W2 the same
--   W3  the even-numbered experts, likewise
--   W4  all; ranks have from half to one and a half times the tokens
--   W5  the upper half
--   W6  as W1, but the hot experts move on by their number every third step
--   W7  all; the hot ones for even tokens of every fourth step
-- W2 is W1 as another draw: in the benchmark it differs in what is measured. How unequal the ranks
-- of W4 are is not said there. Values depend on (seed, step, layer, rank, token) alone.

local lib = require 'neap.base.lib'

local bit = require 'bit'

local ffi, C = lib.ffi, lib.C

local workloads = {}

workloads.DOCS = {
  W0 = 'all experts in turn', W1 = 'a hot quarter', W2 = 'a hot quarter, another draw',
  W3 = 'half of the experts, the even-numbered', W4 = 'ranks with unequal token numbers',
  W5 = 'the upper half of the experts', W6 = 'a hot quarter that moves', W7 = 'bursts on a quarter',
}

workloads.NAMES = lib.sorted_keys(workloads.DOCS)

local RANGES = {
  ranks = { 1, 2 ^ 20 }, experts = { 1, 2 ^ 20 }, top_k = { 1, 2 ^ 20 }, tokens = { 0, 2 ^ 31 },
  layers = { 1, 2 ^ 20 }, seed = { 0, 2 ^ 52 },
}

local Workload = {}
Workload.__index = Workload

local function check(options)
  if not workloads.DOCS[options.name] then
    lib.raise('ARGUMENT', ("workload: no workload is called '%s'; known are %s"):format(
      tostring(options.name), table.concat(workloads.NAMES, ', ')), 3)
  end
  for name, range in pairs(RANGES) do
    local value = options[name]
    if type(value) ~= 'number' or value % 1 ~= 0 or value < range[1] or value > range[2] then
      lib.raise('ARGUMENT', ('workload: %s is %s; allowed are %g to %g'):format(name,
        tostring(value), range[1], range[2]), 3)
    end
  end
  if options.top_k > options.experts then
    lib.raise('ARGUMENT', ('workload: top_k is %d; there are %d experts'):format(options.top_k,
      options.experts), 3)
  end
end

--- options: name, ranks, experts, top_k, tokens (of a rank, on average), layers, seed; all are
-- needed. Raises ARGUMENT.
-- : table -> Workload
function workloads.open(options)
  check(options)
  local self = setmetatable({}, Workload)
  for name, value in pairs(options) do self[name] = value end
  self.hot_width = math.max(self.top_k, math.floor(self.experts / 4))
  self.upper = math.min(math.floor(self.experts / 2), self.experts - self.top_k)
  self.even_width = math.max(self.top_k, math.floor(self.experts / 2))
  self.taken_by = ffi.new('int32_t[?]', self.experts)
  return self
end

-- Pool of a token: width experts, from start on, stride apart, cyclically.
local POOLS = {
  W1 = function(w, t)
    if t % 4 ~= 0 then return w.hot_width, 0, 1 end
    return w.experts, 0, 1
  end,
  W3 = function(w, t)
    if t % 4 ~= 0 then return w.even_width, 0, 2 end
    return w.experts, 0, 1
  end,
  W4 = function(w) return w.experts, 0, 1 end,
  W5 = function(w) return w.experts - w.upper, w.upper, 1 end,
  W6 = function(w, t, step)
    if t % 4 ~= 0 then
      return w.hot_width, math.floor(step / 3) * w.hot_width % w.experts, 1
    end
    return w.experts, 0, 1
  end,
  W7 = function(w, t, step)
    if step % 4 == 3 and t % 2 == 0 then return w.hot_width, 0, 1 end
    return w.experts, 0, 1
  end,
}
POOLS.W2 = POOLS.W1

--- The pool's i-th expert. With few experts and a large top_k the even-numbered ones do not
-- suffice: the odd ones follow.
local function expert_at(w, start, stride, i)
  local index = start + stride * i
  if stride == 2 and index >= w.experts then
    return index - w.experts + (w.experts % 2 == 0 and 1 or 0)
  end
  return index % w.experts
end

--- Adds token t's choices to row: top_k distinct places of the pool, by Floyd's method.
local function choose(w, pool, stream, step, t, row)
  local width, start, stride = pool(w, t, step)
  local taken_by, k = w.taken_by, w.top_k
  for j = width - k, width - 1 do
    local bits = C.neap_random_bits(w.seed, stream, t * k + j - width + k)
    local i = math.floor(tonumber(bit.rshift(bits, 11)) * 2 ^ -53 * (j + 1))
    if taken_by[i] == t + 1 then i = j end
    taken_by[i] = t + 1
    local e = expert_at(w, start, stride, i)
    row[e] = row[e] + 1
  end
end

local function tokens_of(w, rank)
  if w.name ~= 'W4' or w.ranks == 1 then return w.tokens end
  return math.floor(w.tokens * (0.5 + rank / (w.ranks - 1)) + 0.5)
end

--- out: int64_t[ranks * experts] to write to, else a new one.
-- : integer, integer, int64_t[ranks * experts]? -> int64_t[ranks * experts]
function Workload:load(step, layer, out)
  local cells, k = self.ranks * self.experts, self.top_k
  out = out or ffi.new('int64_t[?]', cells)
  ffi.fill(out, cells * 8)
  local pool, shift = POOLS[self.name], self.name == 'W2' and 1 or 0
  for rank = 0, self.ranks - 1 do
    local row, n = out + rank * self.experts, tokens_of(self, rank)
    local stream = (((step * self.layers + layer) * self.ranks) + rank) * 2 + shift
    ffi.fill(self.taken_by, self.experts * 4)
    for t = 0, n - 1 do
      if pool then
        choose(self, pool, stream, step, t, row)
      else
        for j = 0, k - 1 do
          local e = (t * k + j) % self.experts
          row[e] = row[e] + 1
        end
      end
    end
  end
  return out
end

return workloads

-- SPDX-License-Identifier: Apache-2.0

--- AdamW over all parameters of a model: the flat dense ones, cut over the ranks (ZeRO), and the
-- experts' shards, which are cut over the ranks anyway.
--
-- A step: the gradients are summed over ranks and each rank gets its range of the sums; their norm
-- over everything is clipped; every rank updates its range; the parameters are gathered again, in
-- bf16 where they are of that type: their masters, like gradients and moments, are f32.
-- With exact parameters all of it gives the same bits on any number of ranks: gradients and norm
-- are exact sums, the update is elementwise.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local exact = require 'neap.engine.exact'

local ffi, C = lib.ffi, lib.C

local optim = {}

--- The learning rate of a step (from 1): linear warm-up, then half a cosine down to floor x peak at
-- the last step.
-- : integer, number, integer, integer, number -> number
function optim.cosine(step, peak, warmup, steps, floor)
  if step < warmup then
    return peak * step / warmup
  end
  local done = math.min(1, (step - warmup) / math.max(1, steps - warmup))
  floor = floor or 0
  return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
end

local AdamW = {}
AdamW.__index = AdamW
optim.AdamW = AdamW

local SPEC = {
  rate = { default = 1e-3, type = 'number function' }, warmup = { default = 0 },
  steps = { default = math.huge },
  floor = { default = 0.1 }, beta1 = { default = 0.9 }, beta2 = { default = 0.95 },
  eps = { default = 1e-8 }, decay = { default = 0.1 }, clip = { default = 1 }, comm = {},
  shards = { type = 'table' },
}
local GRANULE = 16 -- elements; ranges start on cache lines

--- The ranges of the ranks: counts, and where this rank's starts.
local function cut(count, rank, ranks)
  local begin, ends = ffi.new 'int64_t[1]', ffi.new 'int64_t[1]'
  local counts = ffi.new('int64_t[?]', ranks)
  for r = 0, ranks - 1 do
    C.neap_cut(count, GRANULE, ranks, r, begin, ends)
    counts[r] = ends[0] - begin[0]
  end
  C.neap_cut(count, GRANULE, ranks, rank, begin, ends)
  return counts, tonumber(begin[0])
end

--- parameters: nn.Parameters, allocated. options, with the defaults above: rate, the peak, or a
-- function that gives the rate of a step, counted from 1; warmup and steps of the schedule; floor,
-- the last rate / rate; beta1, beta2, eps, decay (of matrices);
-- clip, the largest norm of all gradients together, or 0 for no clipping; comm (nil: alone);
-- shards, a list of the experts' stores. Collective.
-- : Parameters, table -> AdamW
function AdamW.new(parameters, given)
  local self = setmetatable(options.check(given, SPEC, 'adamw'), AdamW)
  self.parameters, self.done, self.shards = parameters, 0, self.shards or {}
  if self.shards[0] then
    lib.raise('ARGUMENT', 'adamw: shards has an element 0; it must be a list from 1', 2)
  end
  self.settings = ffi.new('neap_adamw', { beta1 = self.beta1, beta2 = self.beta2, eps = self.eps })
  self:allocate()
  return self
end

--- This rank's range: its gradient, parameters and moments, each cut where decay ends.
function AdamW:allocate()
  local values = self.parameters.values
  local rank = self.comm and self.comm:rank() or 0
  self.ranks = self.comm and self.comm:size() or 1
  self.counts, self.first = cut(values.count, rank, self.ranks)
  local count = tonumber(self.counts[rank])
  local acc = tensor.acc_of(values.dtype)
  local function make(dtype) return tensor.zeros(dtype or acc, count) end
  self.range = { grad = make(), param = self.parameters:take_masters(self.first, count),
    m = make(), v = make() }
  self.sum = self.parameters.exact and make 'f64' or self.range.grad
  local decayed = math.max(0, math.min(count, self.parameters.decayed - self.first))
  self.parts = { self:part(0, decayed), self:part(decayed, count - decayed) }
  self:cut_full(rank)
end

--- The ranks' parts of the parameters that are kept unrounded beside rounded ones.
-- : integer
function AdamW:cut_full(rank)
  local full, first = self.parameters.full, 0
  if full == self.parameters.values or full.count == 0 then return end
  self.full_counts = ffi.new('int64_t[?]', self.ranks)
  for r = 0, self.ranks - 1 do
    self.full_counts[r] = math.max(0, math.min(tonumber(self.counts[r]), full.count - first))
    first = first + tonumber(self.counts[r])
  end
  self.full_part = self.range.param:view(0, tonumber(self.full_counts[rank]))
end

--- A part of this rank's range, from offset on: views of its gradient, parameters and moments.
-- : integer, integer -> table
function AdamW:part(offset, count)
  local part = { count = count }
  for name, whole in pairs(self.range) do
    part[name] = whole:view(offset, count)
  end
  return part
end

--- Sums the gradients over ranks; this rank's range of the sums goes to range.grad.
function AdamW:reduce()
  local gradients = self.parameters.gradients
  if self.ranks > 1 then
    self.comm:reduce_scatter(gradients, self.sum, self.counts)
  else
    self.sum:copy(gradients)
  end
  if self.sum ~= self.range.grad then
    self.range.grad:copy(self.sum) -- the one rounding of exact gradients
  end
end

--- The norm of all gradients, the same on every rank.
-- : -> number
function AdamW:norm()
  local squares
  if self.parameters.exact then
    squares = exact.sum_squares(self.comm, self.range.grad, self.parameters.values.count)
  else
    local total = ffi.new('double[1]', ops.sum_squares(self.range.grad))
    if self.comm then
      self.comm:all_reduce(total, 1, 'f64')
    end
    squares = total[0]
  end
  for _, store in ipairs(self.shards) do squares = squares + store:sum_squares() end
  return math.sqrt(squares)
end

--- What a function of a user's gives, or an error.
local function own_rate(f, step)
  local rate = f(step)
  if type(rate) ~= 'number' or rate ~= rate or math.abs(rate) == math.huge then
    lib.raise('ARGUMENT', ('optimizer: the rate of step %d is %s; it must be a finite number')
      :format(step, tostring(rate)), 3)
  end
  return rate
end

--- The rate of the next step.
-- : -> number
function AdamW:next_rate()
  if type(self.rate) == 'function' then return own_rate(self.rate, self.done + 1) end
  return optim.cosine(self.done + 1, self.rate, self.warmup, self.steps, self.floor)
end

--- Changes this rank's parameters by its gradients times scale.
-- : number
function AdamW:update(scale)
  local settings = self.settings
  settings.step, settings.rate, settings.grad_scale = self.done + 1, self:next_rate(), scale
  for i, part in ipairs(self.parts) do
    settings.decay = i == 1 and self.decay or 0
    ops.adamw(settings, part.grad, part.param, part.m, part.v)
  end
  settings.decay = self.decay
  for _, store in ipairs(self.shards) do store:adamw(settings) end
end

--- Every rank's part of current goes to whole.
local function gather(self, current, whole, counts)
  if self.ranks > 1 then
    self.comm:all_gather(current, whole, counts)
  else
    whole:copy(current)
  end
end

--- Gives every rank the parameters of all ranges, and shard groups their working parameters.
function AdamW:gather()
  local values, range, refreshes = self.parameters.values, self.range, {}
  for i, store in ipairs(self.shards) do refreshes[i] = store:refresh_start() end
  local current = range.param
  if values.dtype ~= current.dtype then -- half of the bytes travel
    self.rounded = tensor.reuse(self.rounded, values.dtype, current.count):copy(current)
    current = self.rounded
  end
  gather(self, current, values, self.counts)
  if self.full_counts then gather(self, self.full_part, self.parameters.full, self.full_counts) end
  for _, refresh in ipairs(refreshes) do refresh:wait() end
end

--- What a checkpoint keeps of the dense parameters: this rank's ranges, as tensors parameter,
-- moment1 and moment2; count and granule: of the whole, and by which it is cut (neap_cut).
-- : -> table
function AdamW:dense()
  return { parameter = self.range.param, moment1 = self.range.m, moment2 = self.range.v,
    count = self.parameters.values.count, granule = GRANULE }
end

--- Goes on after so many steps, once this rank's ranges and stores hold what they held then.
-- Collective.
-- : integer
function AdamW:restore(done)
  self.done = done
  self:gather()
end

--- One step; the gradients stay as they were. Returns their norm. Collective. Raises an error, on
-- every rank, if the norm is not finite; nothing has been changed then.
-- : -> number
function AdamW:step()
  self:reduce()
  local norm = self:norm()
  if norm ~= norm or norm == math.huge then
    lib.raise('ARGUMENT', ('adamw: the gradient norm of step %d is %g; a lower rate or longer '
      .. 'warm-up may help'):format(self.done + 1, norm), 2)
  end
  self:update(self.clip > 0 and norm > self.clip and self.clip / norm or 1)
  self:gather()
  self.done = self.done + 1
  return norm
end

return optim

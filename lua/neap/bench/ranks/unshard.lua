-- SPDX-License-Identifier: Apache-2.0

--- One rank of neap bench unshard, as processes.run calls it: (rank, ranks, world, ORDER).
-- Rates count every byte that has to be read and written, from the moment that all ranks are ready
-- until the last one is done. An unshard reads a slot's parameters and writes them, in the dtype
-- that travels; a reduce moves the parts of gradients (f32) that other ranks own, then reads all
-- parts and writes the sums.

local on_rank = require 'neap.bench.ranks.entry'
local device = require 'neap.engine.device'
local json = require 'neap.base.json'
local layouts = require 'neap.engine.layout'
local lib = require 'neap.base.lib'
local series = require 'neap.base.series'
local shards = require 'neap.engine.shards'
local tensor = require 'neap.engine.tensor'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local WARM_UP = 3
local COPY_BYTES = 2 ^ 32 -- at most, of the copy that rates are compared with
local BYTES = { f32 = 4, bf16 = 2 }
local GRADIENT = 'f32'

--- Median seconds of an action that all ranks begin together.
local function measure(channel, repeats, action)
  local times = series.open()
  for i = 1, WARM_UP + repeats do
    device.wait()
    channel:barrier()
    local start = C.neap_clock()
    action()
    device.wait()
    channel:barrier()
    if i > WARM_UP then times:add(C.neap_clock() - start) end
  end
  return times:quantile(0.5)
end

--- Bytes per second, read and written, of a plain copy by rank 0 alone.
local function copy_rate(channel, rank, p, bytes)
  local count = math.floor(math.min(bytes, COPY_BYTES) / 4)
  local from, to
  if rank == 0 then
    from, to = tensor.zeros('f32', count), tensor.zeros('f32', count)
  end
  local seconds = measure(channel, p.repeats, function()
    if rank == 0 then to:copy(from) end
  end)
  if rank == 0 then
    from:close()
    to:close()
  end
  return 2 * 4 * count / seconds
end

local function open(channel, rank, ranks, p)
  local s = { topology = topologies.open { ranks = ranks, slots = p.slots, experts = p.experts } }
  local sizes, size = {}, 3 * p.hidden * p.ffn
  for e = 1, p.experts do sizes[e] = size end
  s.channel = channel:duplicate()
  s.store = shards.open { comm = s.channel, topology = s.topology, sizes = sizes, dtype = p.dtype,
    travel = p.unshard }
  for e = 0, p.experts - 1 do s.store:normal(e, 0, math.min(size, 4096), 1, e, 1) end
  s.store:refresh()
  s.weights = tensor.new(p.dtype, p.slots, size)
  s.gradients = tensor.zeros(GRADIENT, p.slots, size)
  local slots = s.topology.slots
  local expert_of = ffi.new('int32_t[?]', slots)
  s.tokens = ffi.new('int64_t[?]', slots)
  for i = 0, slots - 1 do expert_of[i], s.tokens[i] = i % p.experts, 1 end
  s.layout = layouts.open(s.topology):set(expert_of)
  s.rank = rank
  return s
end

--- Bytes a second that are read and written for slots' experts by an unshard, and by a reduce.
local function rates(ranks, p, unshard, reduce)
  local size, slots = 3 * p.hidden * p.ffn, ranks * p.slots
  local weights, gradients = size * BYTES[p.dtype], size * BYTES[GRADIENT]
  local moved = slots * gradients * (ranks - 1) / ranks
  return 2 * slots * weights / unshard,
    (2 * moved + slots * gradients + p.experts * gradients) / reduce
end

local function run(channel, rank, ranks, order)
  local p = order.params
  local s = open(channel, rank, ranks, p)
  local unshard = measure(channel, p.repeats, function()
    s.store:unshard_start(s.layout, s.weights):wait()
  end)
  local sent = s.store:traffic().unshard / (WARM_UP + p.repeats)
  local reduce = measure(channel, p.repeats, function()
    s.store:reduce_start(s.layout, s.gradients, s.tokens):wait()
  end)
  local copy = copy_rate(channel, rank, p, ranks * p.slots * 3 * p.hidden * p.ffn * BYTES[p.dtype])
  local unshard_rate, reduce_rate = rates(ranks, p, unshard, reduce)
  local result = {
    device = order.device, dtype = p.dtype, unshard = p.unshard, gradient_dtype = GRADIENT,
    unshard_bytes_sent = sent,
    ranks = ranks, experts = p.experts, slots = p.slots, hidden = p.hidden, ffn = p.ffn,
    unshard_ms = 1e3 * unshard, unshard_gb_per_second = unshard_rate / 1e9,
    unshard_share_of_copy = unshard_rate / copy, reduce_ms = 1e3 * reduce,
    reduce_gb_per_second = reduce_rate / 1e9, reduce_share_of_copy = reduce_rate / copy,
    copy_gb_per_second = copy / 1e9,
    gpu = order.device == 'cuda' and device.describe(0) or nil,
  }
  s.store:close()
  s.channel:close()
  if rank > 0 then return end
  if order.json then
    print(json.results('bench', { bench = 'unshard', rows = { result } }))
  else
    print(('unshard (%s) %.3f ms, %.3g MB sent, %.0f GB/s, %.0f %% of a copy; reduce (%s) %.3f ms, '
      .. '%.0f GB/s, %.0f %%; copy %.0f GB/s (read and written)'):format(
      p.unshard == 'fp8' and 'fp8 to ' .. p.dtype or p.dtype, result.unshard_ms, sent / 1e6,
      result.unshard_gb_per_second, 100 * result.unshard_share_of_copy, GRADIENT, result.reduce_ms,
      result.reduce_gb_per_second, 100 * result.reduce_share_of_copy, result.copy_gb_per_second))
  end
end

return on_rank(run, ...)

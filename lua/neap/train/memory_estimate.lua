-- SPDX-License-Identifier: Apache-2.0

--- What memory a training will need, from its parameters alone: neap run --dry-run prints it, with
-- how much the model computes, and a run that has no memory left names the parameter to lower.
--
--   local e = memory_estimate.training(values, { ranks = 8, node_size = 4, device = 'cuda' })
--   e.rank, e.process             -- bytes of one rank, and of all that are here
--   e.kinds                       -- { kind =, bytes = of one rank, lower = 'which parameter' }
--
-- Counts what nn/optimizer.lua, nn/, moe.c, shards.c and transfer.c allocate. Tokens of experts
-- wander from step to step, and so do their buffers: they are taken with a margin.

local device = require 'neap.engine.device'
local json = require 'neap.base.json'
local model_size = require 'neap.train.model_size'
local schedules = require 'neap.nn.schedule'
local shard_group = require 'neap.nn.shard_group'
local text_table = require 'neap.base.text_table'

local memory_estimate = {}

--- A rank's buffers of tokens grow to what a step needs and a quarter more.
local MARGIN = 1.25

local SIZE = { f64 = 8, f32 = 4, bf16 = 2 }
local REDUCE_SCRATCH = 2 ^ 28 -- of core/comm/collective.c
local FP8 = 33 / 32 -- a code, and its part of a scale

local NEEDED = { 'layers', 'hidden', 'heads', 'kv_heads', 'experts', 'top_k', 'ffn', 'slots',
  'sequence', 'batch', 'schedule', 'shard_group' }

--- Whether parameters are those of a training that this file knows.
function memory_estimate.knows(specs)
  for _, name in ipairs(NEEDED) do
    if not specs[name] then return false end
  end
  return true
end

--- Sizes that everything follows from.
local function sizes_of(p, job)
  local size = model_size.of(p)
  local s = { layers = size.layers, all_layers = p.layers, dense_layers = size.dense_layers,
    dense = size.dense, shared_ffn = size.shared_ffn, dense_ffn = size.dense_ffn,
    router_f32 = rawget(p, 'router_f32'), hidden = p.hidden, experts = p.experts, top_k = p.top_k,
    slots = p.slots, ranks = job.ranks, gpu = job.device == 'cuda',
    vocabulary = rawget(p, 'vocabulary') or 256, exact = rawget(p, 'exact') }
  s.dtype = rawget(p, 'dtype') or 'f32'
  s.element = SIZE[s.dtype]
  s.travels = rawget(p, 'unshard') == 'fp8' and FP8 or s.element
  s.dispatch_fp8 = rawget(p, 'dispatch') == 'fp8'
  s.acc = math.max(4, s.element)   -- masters, moments, sums
  s.grad = s.exact and 8 or s.acc -- gradients
  s.tokens = math.ceil(p.batch / job.ranks) * p.sequence
  s.heads, s.sequence = p.heads, p.sequence
  s.qkv = (p.heads + 2 * p.kv_heads) * p.hidden / p.heads
  local sum, most = 0, 0
  for _, f in ipairs(p.ffn) do sum, most = sum + f / #p.ffn, math.max(most, f) end
  s.ffn, s.expert, s.slot = sum, 3 * p.hidden * sum, 3 * p.hidden * most
  local group, homes = shard_group.resolve(p.shard_group, rawget(p, 'ep'), job.ranks,
    rawget(p, 'unshard'))
  s.group = homes or math.min(({ all = job.ranks, node = job.node_size })[group] or group,
    job.ranks)
  s.working = homes and math.ceil(p.experts / homes) or p.experts / s.group
  s.owned = homes and s.working * homes / job.ranks or p.experts / job.ranks
  s.resident = homes and s.owned or 0
  s.schedule = schedules.resolve(p.schedule)
  s.router_wide = s.router_f32 and s.acc ~= s.element -- beside the rounded parameters and tokens
  return s
end

--- Values that all ranks have, and shards of experts, or resident ones, in the type of computation.
local function parameters(s)
  local expert = s.layers * s.expert * s.travels
  local bytes = s.dense * s.element
  if s.router_wide then bytes = bytes + s.layers * s.hidden * s.experts * s.acc end
  if s.acc ~= s.travels then bytes = bytes + s.owned * expert end
  if s.group < s.ranks then bytes = bytes + s.working * expert end
  return bytes
end

--- Masters and two moments, each cut over the ranks; of f32, the experts' masters are what the rank
-- computes with.
local function optimizer(s)
  local range = s.dense / s.ranks
  local bytes = 3 * range * s.acc + 3 * s.layers * s.owned * s.expert * s.acc
  return bytes + (s.acc ~= s.element and range * s.element or 0)
end

--- Gradients of experts that come from other ranks, of a layer.
local function incoming_gradients(s)
  return s.slots * s.expert * (s.ranks - 1) / s.ranks * s.grad
    + (s.exact and s.resident > 0 and s.slot * 8 or 0)
end

--- Slots, and what arrives for them in FP8: on the CPU every layer keeps that, where it has
-- gradients later.
local function unshard_buffers(s)
  local kept, slots = math.min(s.schedule.keep, s.layers), s.slots * s.slot
  local bytes, packed = kept * slots * s.element, slots * s.travels
  if s.travels == s.element then return bytes end
  return bytes + (s.gpu and kept * packed
    or s.layers * math.max(0, packed - incoming_gradients(s)))
end

--- Of dense parameters, of slots, of shards, and what comes from other ranks. On the CPU every
-- layer keeps the memory for that.
local function gradients(s)
  local kept = math.min(s.schedule.gradients, s.layers)
  local incoming = incoming_gradients(s)
  local scratch = s.ranks > 1 and math.min(s.dense * s.grad, REDUCE_SCRATCH) or 0
  local ranges = (s.dense / s.ranks + s.layers * s.owned * s.expert) * s.acc
  return s.dense * s.grad + kept * s.slots * s.slot * s.grad
    + (s.gpu and kept or s.layers) * incoming + scratch + ranges
    + (s.exact and s.dense / s.ranks * 8 or 0)
end

--- Rows that are computed here, and this rank's that others compute.
local function all_rows(s)
  return s.tokens * s.top_k * (2 - 1 / s.ranks)
end

--- Inputs of all rows that a layer keeps: as they travelled in FP8; as they are; or none, since one
-- rank alone makes them again.
local function kept_inputs(s)
  if s.dispatch_fp8 then return all_rows(s) * math.ceil(s.hidden / 128) * 132 end
  return s.ranks > 1 and all_rows(s) * s.hidden * s.element or 0
end

--- Of a layer's experts: inputs, gate and up, and a number per row.
local function expert_rows(s)
  local here = s.tokens * s.top_k
  local bytes = MARGIN * (kept_inputs(s) + 2 * here * s.ffn * s.element + all_rows(s) * s.acc)
  if s.exact then
    local wide, narrow = math.max(2 * s.ffn, s.hidden), math.max(s.ffn, s.hidden)
    bytes = bytes + MARGIN * here / s.slots * (wide + narrow) * 8
      + s.tokens * (s.hidden + s.experts) * 8 + 16 * s.experts * (2 * s.hidden + 3 * s.ffn)
  end
  return bytes
end

--- Of all layers: what experts compute again for the backward, outputs and their gradients, and
-- inputs that are made when they are needed.
local function expert_room(s)
  local here = s.tokens * s.top_k
  local inputs = (s.dispatch_fp8 or s.ranks == 1) and here or 0
  return MARGIN * ((here + here / s.slots) * s.ffn + (2 * all_rows(s) + inputs) * s.hidden)
    * s.element
end

--- Of the networks that compute every token: gate and up, activations, outputs, and the gradients
-- of activations and inputs; which, 'freed': those that a layer frees if it computes them again.
local function ffn_rows(s, ffn, which)
  if ffn == 0 then return 0 end
  return s.tokens * s.element * (which == 'freed' and 3 * ffn + s.hidden or 4 * ffn + 2 * s.hidden)
end

local function all_ffn_rows(s, which)
  return s.layers * ffn_rows(s, s.shared_ffn, which)
    + s.dense_layers * ffn_rows(s, s.dense_ffn, which)
end

--- What all layers but the one under way do without if they compute it again (Block:release).
local function freed(s)
  if not s.schedule.recompute then return 0 end
  local here, rest = s.tokens * s.top_k, (s.all_layers - 1) / s.all_layers
  return (s.layers - 1) * s.element * MARGIN * 2 * here * s.ffn
    + rest * all_ffn_rows(s, 'freed') + (s.all_layers - 1) * s.element * s.tokens
    * (4 * s.hidden + s.qkv)
end

--- Of all layers' attention together, a token: what they make one after the other, gradients and
-- what is added to the residual.
local function attention_rooms(s)
  return 8 * s.hidden * s.element + s.qkv * s.element + (s.exact and 2 * s.hidden * s.acc or 0)
end

local function activations(s)
  local layer = 5 * s.hidden * s.element + s.qkv * s.element + (s.heads + 2) * s.acc
  local router = 2 * s.experts * s.acc + s.top_k * (s.acc + 8)
    + (s.router_wide and s.hidden * s.acc or 0)
  local ends = 4 * s.hidden * s.element + (s.exact and s.hidden * s.acc or 0)
  local table_bytes = s.sequence * s.hidden / s.heads * s.acc
  local widest = math.max(s.qkv, s.vocabulary, 2 * s.shared_ffn,
    s.dense_layers > 0 and 2 * s.dense_ffn or 0)
  local scratch = s.exact and s.tokens * (s.hidden + widest) * 8 or 0
  return s.all_layers * (s.tokens * layer + table_bytes) + s.tokens * attention_rooms(s)
    + s.layers * (s.tokens * router + expert_rows(s)) + all_ffn_rows(s)
    + expert_room(s) + s.tokens * ends + scratch - freed(s)
end

local function logits(s)
  local grad = s.acc ~= s.element and s.element or 0
  return s.tokens * (s.vocabulary * (s.acc + grad) + s.acc)
end

local KINDS = {
  { 'parameters', parameters, 'hidden, layers or ffn' },
  { 'masters and moments', optimizer, 'hidden, layers, ffn or experts, or take more GPUs' },
  { 'unshard buffers', unshard_buffers, "slots or the schedule's keep (--schedule=laer:keep=2)" },
  { 'gradients', gradients, "slots or the schedule's gradients (--schedule=laer:gradients=2)" },
  { 'activations', activations, 'batch or sequence, or --schedule=neap:recompute=true' },
  { 'logits', logits, 'batch, sequence or vocabulary' },
}

--- p: values of trainer.params, perhaps with a vocabulary. job: ranks, node_size, device, and
-- perhaps sharing, the ranks that share the device (all of them). Bytes of the rank with the most
-- sequences; process: of all that share its device; model: what model_size.of gives.
function memory_estimate.training(p, job)
  local s = sizes_of(p, job)
  local result = { kinds = {}, rank = 0, sharing = job.sharing or job.ranks,
    model = model_size.of(p) }
  for i, kind in ipairs(KINDS) do
    local bytes = kind[2](s)
    result.kinds[i] = { kind = kind[1], bytes = bytes, lower = kind[3] }
    result.rank = result.rank + bytes
  end
  -- activations of all ranks follow the batch, not its largest share
  local share = p.batch * p.sequence / job.ranks / s.tokens
  local moving = result.kinds[5].bytes + result.kinds[6].bytes
  result.process = result.sharing * (result.rank - moving * (1 - share))
  return result
end

--- Of ranks that share this machine's GPUs, or its memory. node_size: nil for one node.
function memory_estimate.here(p, ranks, node_size, name)
  local devices = name == 'cuda' and math.max(1, device.count()) or 1
  return memory_estimate.training(p, { ranks = ranks, node_size = node_size or ranks, device = name,
    sharing = math.ceil(ranks / devices) })
end

--- The kind that needs most.
function memory_estimate.largest(result)
  local largest = result.kinds[1]
  for _, kind in ipairs(result.kinds) do
    if kind.bytes > largest.bytes then largest = kind end
  end
  return largest
end

local function gigabytes(bytes)
  return ('%.3f'):format(bytes / 1e9)
end

--- As a table on one screen.
function memory_estimate.text(result)
  local rows = {}
  for i, kind in ipairs(result.kinds) do
    rows[i] = { kind.kind, gigabytes(kind.bytes),
      ('%.0f'):format(100 * kind.bytes / result.rank), kind.lower }
  end
  rows[#rows + 1] = { 'one rank', gigabytes(result.rank), '100', '' }
  local model = result.model
  return ('%s\n%d ranks on a device: %s GB\n%s parameters, of which a token uses %s; a step: '
    .. '%.4g GFLOP'):format(text_table.format({ 'kind', 'GB per rank', '%', 'to lower it' }, rows),
    result.sharing, gigabytes(result.process), text_table.thousands(model.parameters),
    text_table.thousands(math.floor(model.used + 0.5)), model.flops / 1e9)
end

--- Prints it; command: which asks.
function memory_estimate.tell(result, command, as_json)
  if not as_json then return print(memory_estimate.text(result)) end
  local model = result.model
  print(json.results(command, { rows = result.kinds, rank = result.rank, process = result.process,
    sharing = result.sharing, parameters = model.parameters, used = model.used,
    flops = model.flops }, { 'rank', 'process', 'sharing', 'parameters', 'used', 'flops', 'rows',
    'kind', 'bytes', 'lower' }))
end

--- What to add to the message of a run that is out of memory.
function memory_estimate.advice(result)
  local largest = memory_estimate.largest(result)
  return ('the run is estimated to need %s GB on this device for its %d ranks (--dry-run), most of '
    .. 'it, %.0f %%, for %s: lower %s'):format(gigabytes(result.process), result.sharing,
    100 * largest.bytes / result.rank, largest.kind, largest.lower)
end

return memory_estimate

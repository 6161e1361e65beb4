-- SPDX-License-Identifier: Apache-2.0

--- What memory a rank needs for a simulated step: Neap's engine, by the estimate of --dry-run
-- (memory_estimate.lua), and a lean program, which keeps what the simulated order of work needs and
-- no more. The lean one cuts dense parameters over all ranks, too, and has two layers of them at a
-- time; sums gradients in its shards; accumulates in F32; computes the loss in pieces; and has
-- gradients of slots in the type that travels.

local memory_estimate = require 'neap.train.memory_estimate'
local models = require 'neap.simulate.models'
local op_cost = require 'neap.simulate.op_cost'

local simulated_memory = {}

local DTYPES = { [2] = 'bf16', [4] = 'f32', [8] = 'f64' }
local STATE = 12       -- bytes of a parameter's master and moments, in F32
local SUM = 4          -- of its gradient, summed over micro-batches
local PIECE = 1024     -- tokens whose loss is computed at a time
local DENSE_LAYERS = 2 -- whose parameters and gradients are there whole

--- ---- the engine --------------------------------------------------------------------------------

--- Parameters of a training that would be this step, nil for numbers that no training has.
local function training(o)
  local m = o.model
  if not DTYPES[m.bytes] then return nil end
  local whole = m.tokens % m.sequence == 0
  return { layers = m.layers, hidden = m.hidden, heads = m.heads, kv_heads = m.kv_heads,
    experts = m.experts, top_k = m.top_k, ffn = type(m.ffn) == 'table' and m.ffn or { m.ffn },
    slots = o.slots, vocabulary = m.vocabulary, dtype = DTYPES[m.bytes], schedule = o.schedule,
    sequence = whole and m.sequence or m.tokens,
    batch = o.machine.ranks * (whole and m.tokens / m.sequence or 1),
    shared_experts = m.shared_experts, dense_layers = m.dense_layers, dense_ffn = m.dense_ffn,
    shard_group = o.homes and 'resident' or o.shard_group, ep = o.homes or 0 }
end

local function engine(o)
  local p = training(o)
  return p and memory_estimate.training(p, { ranks = o.machine.ranks,
    node_size = o.machine.node_size, device = 'cuda' })
end

--- ---- a lean program ----------------------------------------------------------------------------

local function sizes(o)
  local m, cost, sum = o.model, op_cost.of(o.machine, o.model), 0
  for e = 0, m.experts - 1 do sum = sum + cost:expert_parameters(e) end
  local dense = cost:dense_parameters()
  return { experts = sum, expert = sum / m.experts, layers = models.moe_layers(m), dense = dense,
    dense_all = cost:total_parameters() - models.moe_layers(m) * sum, ranks = o.machine.ranks }
end

--- Ranks that one copy of the working parameters of experts is cut over.
local function group_of(o)
  local ranks = o.machine.ranks
  local group = o.homes or ({ all = ranks, node = o.machine.node_size })[o.shard_group]
    or o.shard_group
  return math.min(group, ranks)
end

local function parameters(o, s)
  return o.model.bytes * (s.layers * s.experts / group_of(o) + s.dense_all / s.ranks
    + DENSE_LAYERS * s.dense)
end

local function state(_, s)
  return STATE * (s.layers * s.experts + s.dense_all) / s.ranks
end

--- Slots that a rank fetches into: all, or those besides its homes.
local function fetched(o, s)
  local homes = o.homes and math.ceil(o.model.experts / o.homes) or 0
  return math.max(0, o.slots - homes) * s.expert
end

local function unshard_buffers(o, s)
  return math.min(o.schedule.keep, s.layers) * fetched(o, s) * o.model.bytes
end

--- Resident experts are summed at home, by all copies of a home: until they are, each has its own.
local function gradients(o, s)
  local owned = o.homes and s.layers * s.experts / o.homes or s.layers * s.experts / s.ranks
  local kept = math.min(o.schedule.gradients, s.layers) * fetched(o, s) * o.model.bytes
  return SUM * (owned + s.dense_all / s.ranks) + kept + DENSE_LAYERS * s.dense * o.model.bytes
end

--- Of a token of a layer's attention: its input, and what is computed from it.
local function attention_numbers(m)
  return m.hidden, (5 + 2 * m.kv_heads / m.heads) * m.hidden
end

--- fullness: tokens of the fullest rank / the mean rank's.
local function activations(o, s, fullness)
  local m, bytes = o.model, o.model.bytes
  local rows = m.tokens * m.top_k * fullness
  local shared, network = models.dense_widths(m)
  local input, attention = attention_numbers(m)
  local here = o.machine.ranks > 1 and rows * m.hidden or 0
  local dense = m.tokens * (attention + 3 * shared)
  local computed = rows * 3 * s.expert / (3 * m.hidden) + dense
  local first = m.tokens * (attention + 3 * network)
  local kept, ends = m.layers * m.tokens * input, m.tokens * 4 * m.hidden
  if o.schedule.recompute then
    kept = kept + s.layers * here + math.max(computed, first)
  elseif m.recompute then
    kept = kept + math.max(here + computed, first)
  else
    kept = kept + s.layers * (here + computed) + m.dense_layers * first
  end
  return bytes * (kept + 2 * rows * m.hidden + ends) -- rows out and back, of the layer under way
end

local function logits(o)
  return math.min(PIECE, o.model.tokens) * o.model.vocabulary * (4 + o.model.bytes)
end

local KINDS = { { 'parameters', parameters }, { 'masters and moments', state },
  { 'unshard buffers', unshard_buffers }, { 'gradients', gradients },
  { 'activations', activations }, { 'logits', logits } }

--- ---- both --------------------------------------------------------------------------------------

--- o: of a simulation (simulate.open's, with all defaults). fullness: tokens of the fullest rank /
-- the mean rank's, of a lean program, whose buffers have room for no more; the engine's have a
-- quarter more than the mean, as --dry-run says. Returns bytes of a rank: lean, engine (nil for
-- numbers that it does not train with), capacity, and kinds, list of { kind =, lean =, engine = };
-- fits: 'yes', 'lean' (of the two only that program) or 'no'.
function simulated_memory.of(o, fullness)
  local s, estimate = sizes(o), engine(o)
  local result = { kinds = {}, lean = 0, engine = estimate and estimate.rank,
    capacity = o.machine.capacity }
  for i, kind in ipairs(KINDS) do
    local bytes = kind[2](o, s, math.max(1, fullness))
    result.kinds[i] = { kind = kind[1], lean = bytes,
      engine = estimate and estimate.kinds[i].bytes }
    result.lean = result.lean + bytes
  end
  result.fits = result.lean > result.capacity and 'no'
    or (result.engine or 0) > result.capacity and 'lean' or 'yes'
  return result
end

return simulated_memory

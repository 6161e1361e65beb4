-- SPDX-License-Identifier: Apache-2.0

--- One training of a small model, and what is left of it to compare with others: losses, gradients,
-- layouts and splits, each by step and layer. With exact sums, losses and gradients are the same to
-- the bit under any policy, split, schedule, shard group and number of ranks.

local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'
local trainers = require 'neap.train.trainer'

local ffi, C = lib.ffi, lib.C

local fingerprint = {}

local STEPS, LAYERS, EXPERTS, VOCABULARY = 4, 3, 7, 17
fingerprint.STEPS, fingerprint.LAYERS = STEPS, LAYERS

local SIZES = {
  cpu = { hidden = 16, heads = 2, kv_heads = 1, sequence = 8, ffn = 6 },
  cuda = { hidden = 64, heads = 4, kv_heads = 2, sequence = 32, ffn = 32 },
}

-- Hidden sizes of unequal experts, in units of the equal ones'.
local UNEQUAL = { 1, 2, 0.5, 1.5, 1, 2.5, 0.5 }

--- Text without a corpus: ids of which the small ones are frequent, and not the same at every step.
local Text = {}

function Text:describe()
  return self.name
end

function Text:sample(seed, step, sequence, length, ids, targets)
  local function id(i)
    local u = C.neap_random_uniform(seed, step * 4096 + sequence, i)
    return math.floor(u * u * VOCABULARY + step) % VOCABULARY
  end
  for i = 0, length - 1 do ids[i], targets[i] = id(i), id(i + 1) end
end

local text = setmetatable({ name = 'random' }, { __index = Text })

--- case: ranks, policy, schedule, shard_group (resident:2 is that with ep 2), unequal (experts),
-- spare (slots per rank more than are needed), device.
local function params_of(case)
  local sizes, ffn = SIZES[case.device], {}
  local group, ep = case.shard_group:match '^(%w+):?(%d*)$'
  ep = tonumber(ep) or 0
  for e = 1, EXPERTS do ffn[e] = sizes.ffn * (case.unequal and UNEQUAL[e] or 1) end
  return {
    steps = STEPS, batch = 5, layers = LAYERS, experts = EXPERTS, top_k = 2, ffn = ffn,
    hidden = sizes.hidden, heads = sizes.heads, kv_heads = sizes.kv_heads,
    sequence = sizes.sequence, vocabulary = VOCABULARY,
    slots = math.ceil(EXPERTS / (ep > 0 and ep or case.ranks)) + case.spare, rate = 0.02,
    warmup = 1, decay = 0.1, clip = 1, aux_loss = 0.01, seed = 7, schedule = case.schedule,
    shard_group = group, ep = ep,
    dtype = case.device == 'cuda' and 'bf16' or 'f32', exact = true,
  }
end

local function node_of(case)
  local list = ffi.new('int32_t[?]', case.ranks)
  for rank = 0, case.ranks - 1 do list[rank] = math.floor(rank / case.node_size) end
  return list
end

local function digest(memory, bytes)
  local hex = ffi.new 'char[65]'
  C.neap_sha256(memory, bytes, hex)
  return ffi.string(hex, 16)
end

--- Of the gradients of a layer's experts. Collective.
local function gradients_of(model, layer, sizes, wanted)
  local store, parts = model.stores[layer], {}
  for e, size in ipairs(sizes) do
    local value = tensor.new('f32', size)
    store:get('gradient', e - 1, value)
    local host = value:host()
    parts[e] = wanted and digest(host:data(), size * 4) or ''
    value:close()
  end
  local all = table.concat(parts)
  return digest(all, #all)
end

--- Of what every source sends to every slot.
local function split_of(session, layer)
  local topology = session.topology
  local row = ffi.new('int64_t[?]', topology.slots)
  local parts = {}
  for source = 0, topology.ranks - 1 do
    session:last_split(layer):row(source, row)
    parts[source + 1] = digest(row, topology.slots * 8)
  end
  local all = table.concat(parts)
  return digest(all, #all)
end

local function loss_bits(loss)
  return digest(ffi.new('double[1]', loss), 8)
end

--- What a step leaves: a list of { what, layer, digest }. The gradients of the last layers come
-- first, as in a backward.
local function look(trainer, loss, sizes, wanted)
  local seen = {}
  for layer = 0, wanted and LAYERS - 1 or -1 do
    seen[#seen + 1] = { 'layout', layer, trainer.session:layout(layer):hash() }
    seen[#seen + 1] = { 'split', layer, split_of(trainer.session, layer) }
  end
  seen[#seen + 1] = { 'loss', -1, loss_bits(loss) }
  for layer = LAYERS - 1, 0, -1 do
    seen[#seen + 1] = { 'gradients', layer, gradients_of(trainer.model, layer, sizes, wanted) }
  end
  return seen
end

--- Trains by a case. comm: of its ranks. wanted: by this rank. Returns a list of look's, by step.
-- A policy's fault is an error. Collective.
function fingerprint.take(comm, case, wanted)
  local p, sizes, steps = params_of(case), {}, {}
  for e, ffn in ipairs(p.ffn) do sizes[e] = 3 * p.hidden * ffn end
  local trainer = trainers.open {
    job = { comm = comm, rank = comm:rank(), ranks = case.ranks, node_of = node_of(case),
      node_size = case.node_size, device = case.device, strict = true,
      in_process = case.in_process, deadline = case.deadline },
    params = p, policy = case.policy, text = text, wait = true,
  }
  for step = 1, STEPS do steps[step] = look(trainer, trainer:step(), sizes, wanted) end
  trainer:close()
  return steps
end

return fingerprint

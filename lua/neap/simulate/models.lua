-- SPDX-License-Identifier: Apache-2.0

--- Models whose training steps are simulated: known by name, or a user's own in a Lua file that
-- returns such a table. Fields:
--   hidden, ffn (of every expert, or a list), experts, top_k, slots (per rank), layers, heads,
--   kv_heads, sequence, vocabulary
--   tokens          of a rank in a micro-batch;  micro_batches  of a step
--   recompute       the forward of a layer is done again before its backward
--   bytes           of a number: parameters, activations, gradients on the wire
--   node_limit      nodes that a token may go to, at most (default: any); matters where machines
--                   deduplicate tokens
--   shared_experts  experts of a layer that every token is computed by, where it is, besides its
--                   top_k others; each as large as the mean of these (default: 0)
--   dense_layers    of the layers, the first so many have no experts but one network for all
--                   tokens, of hidden size dense_ffn (0, the default: of the experts of a token)
--   load            parameters of synthetic routing (engine/synth.lua): sigma, tau, rho

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local options = require 'neap.base.options'
local synth = require 'neap.engine.synth'

local models = {}

local COMMON = { sequence = 8192, vocabulary = 32000, tokens = 16384, micro_batches = 2,
  recompute = true, bytes = 2 }

local function model(kind, fields)
  local all = {}
  for name, value in pairs(COMMON) do all[name] = value end
  for name, value in pairs(fields) do all[name] = value end
  local preset = synth.presets[kind]
  all.experts, all.top_k = all.experts or preset.experts, all.top_k or preset.top_k
  all.load = { sigma = preset.sigma, tau = preset.tau, rho = preset.rho }
  return all
end

--- The six models of the LAER-MoE paper's artifact, one of 1.2 B parameters, and one of many
-- experts.
models.known = {
  ['mixtral-8x7b-e8k2'] = model('e8k2', { hidden = 4096, ffn = 14336, slots = 2, layers = 32,
    heads = 32, kv_heads = 8 }),
  ['mixtral-8x7b-e16k4'] = model('e16k4', { hidden = 4096, ffn = 7168, slots = 4, layers = 24,
    heads = 32, kv_heads = 8 }),
  ['mixtral-8x22b-e8k2'] = model('e8k2', { hidden = 6144, ffn = 16384, slots = 2, layers = 18,
    heads = 48, kv_heads = 8 }),
  ['mixtral-8x22b-e16k4'] = model('e16k4', { hidden = 6144, ffn = 8192, slots = 4, layers = 14,
    heads = 48, kv_heads = 8 }),
  ['moe-1.2b'] = model('e16k4', { hidden = 1024, ffn = 1408, experts = 16, top_k = 4, slots = 4,
    layers = 16, heads = 16, kv_heads = 16, sequence = 2048, tokens = 32768, micro_batches = 1 }),
}
models.known['moe-671b'] = model('wide', { hidden = 7168, ffn = 2048, slots = 2, layers = 61,
  heads = 128, kv_heads = 128, sequence = 4096, tokens = 16384, micro_batches = 1 })
models.known['qwen-8x7b-e8k2'] = models.known['mixtral-8x7b-e8k2']
models.known['qwen-8x7b-e16k4'] = models.known['mixtral-8x7b-e16k4']

models.paper = { 'mixtral-8x7b-e8k2', 'mixtral-8x7b-e16k4', 'qwen-8x7b-e8k2', 'qwen-8x7b-e16k4',
  'mixtral-8x22b-e8k2', 'mixtral-8x22b-e16k4' }

local WHOLE = { 'hidden', 'experts', 'top_k', 'slots', 'layers', 'heads', 'kv_heads', 'sequence',
  'vocabulary', 'tokens', 'micro_batches', 'bytes' }

local DENSE = { 'shared_experts', 'dense_layers', 'dense_ffn' }

local FIELDS = { doc = true, ffn = true, load = true, recompute = true, node_limit = true }
for _, name in ipairs(DENSE) do FIELDS[name] = true end
for _, name in ipairs(WHOLE) do FIELDS[name] = true end

-- Of synthetic routing; ranges as in engine/synth.lua.
local LOAD = {
  sigma = { min = 0, max = 10, needed = true }, tau = { min = 0, max = 10, needed = true },
  rho = { min = 0, max = 1, needed = true },
}

local function check_whole(where, name, value)
  if type(value) ~= 'number' or value % 1 ~= 0 or value < 1 or value > 2 ^ 31 then
    errors.usage('model %s: %s is %s; it must be a whole number from 1 to 2^31', where, name,
      value == nil and 'missing' or tostring(value))
  end
end

local function check_dense(where, m)
  for _, name in ipairs(DENSE) do
    local value = m[name]
    if type(value) ~= 'number' or value % 1 ~= 0 or value < 0 or value > 2 ^ 31 then
      errors.usage('model %s: %s is %s; it must be a whole number from 0 to 2^31', where, name,
        tostring(value))
    end
  end
  if m.dense_layers >= m.layers then
    errors.usage('model %s: dense_layers is %d; it must be less than the %d layers', where,
      m.dense_layers, m.layers)
  end
  if m.doc ~= nil and type(m.doc) ~= 'string' then
    errors.usage('model %s: doc is a %s; it must be a text', where, type(m.doc))
  end
end

local function check_fields(where, m)
  for _, name in ipairs(lib.sorted_keys(m)) do
    if not FIELDS[name] then
      errors.usage("model %s: unknown field '%s'%s; there are %s", where, tostring(name),
        lib.hint(name, lib.sorted_keys(FIELDS)), table.concat(lib.sorted_keys(FIELDS), ', '))
    end
  end
end

--- Raises USAGE, naming field, value and range, unless the model is whole.
local function check(where, m)
  check_fields(where, m)
  for _, name in ipairs(WHOLE) do check_whole(where, name, m[name]) end
  check_dense(where, m)
  local ffn = type(m.ffn) == 'table' and m.ffn or { m.ffn }
  for _, place in ipairs(lib.sorted_keys(ffn)) do
    if type(place) ~= 'number' or place % 1 ~= 0 or place < 1 or place > #ffn then
      errors.usage('model %s: ffn is a list; it has a field %s', where, tostring(place))
    end
    check_whole(where, 'ffn', ffn[place])
  end
  if type(m.recompute) ~= 'boolean' then
    errors.usage('model %s: recompute is a %s; it must be true or false', where, type(m.recompute))
  end
  if m.node_limit ~= nil then check_whole(where, 'node_limit', m.node_limit) end
  local wrong = type(m.load) ~= 'table' and ('model %s: load is a %s; it must be a table'):format(
    where, type(m.load)) or options.problem(m.load, LOAD, ('model %s: load'):format(where), 'field')
  if wrong then errors.usage('%s', wrong) end
  if #ffn == 0 or #ffn > 1 and #ffn ~= m.experts then
    errors.usage('model %s: ffn has %d sizes; there are %d experts', where, #ffn, m.experts)
  end
  if m.top_k > m.experts then
    errors.usage('model %s: top_k is %d; there are %d experts', where, m.top_k, m.experts)
  end
  return m
end

local function load_file(path)
  local chunk, why = loadfile(path)
  if not chunk then errors.usage('model %s', why) end
  local ok, model_of_file = pcall(chunk)
  if not ok then errors.usage('model %s', errors.in_file(path, model_of_file)) end
  if type(model_of_file) ~= 'table' then
    errors.usage('model %s: the file must return a table', path)
  end
  return model_of_file
end

local function named(what)
  if models.known[what] then return models.known[what] end
  if what:find '/' or what:find '%.lua$' then return load_file(what) end
  local names = lib.sorted_keys(models.known)
  errors.usage("unknown model '%s'%s; known are %s, or the path of a Lua file", what,
    lib.hint(what, names), table.concat(names, ', '))
end

--- A model: a name, the path of a Lua file, or a table; changes: fields that differ. Raises USAGE.
function models.describe(what, changes)
  local base = type(what) == 'string' and named(what) or what
  local preset = synth.presets.e16k4
  local m = { load = { sigma = preset.sigma, tau = preset.tau, rho = preset.rho } }
  for name, value in pairs(COMMON) do m[name] = value end
  for _, name in ipairs(DENSE) do m[name] = 0 end
  for name, value in pairs(base) do m[name] = value end
  for name, value in pairs(changes or {}) do m[name] = value end
  return check(type(what) == 'string' and what or '(a table)', m)
end

--- The model that trainer.params p describe, as the trainer trains it on so many ranks; bytes: of a
-- number.
function models.trained(p, ranks, bytes)
  return models.describe { hidden = p.hidden, ffn = #p.ffn > 1 and p.ffn or p.ffn[1],
    experts = p.experts, top_k = p.top_k, slots = p.slots, layers = p.layers, heads = p.heads,
    kv_heads = p.kv_heads, sequence = p.sequence, shared_experts = rawget(p, 'shared_experts'),
    dense_layers = rawget(p, 'dense_layers'), dense_ffn = rawget(p, 'dense_ffn'),
    vocabulary = rawget(p, 'vocabulary') or 256,
    tokens = math.max(1, math.floor(p.batch * p.sequence / ranks)), micro_batches = 1,
    recompute = false, bytes = bytes }
end

--- F of an expert, from 0.
function models.ffn(m, expert)
  return type(m.ffn) == 'table' and (#m.ffn > 1 and m.ffn[expert + 1] or m.ffn[1]) or m.ffn
end

--- Layers with experts.
function models.moe_layers(m)
  return m.layers - m.dense_layers
end

local function mean_ffn(m)
  if type(m.ffn) ~= 'table' then return m.ffn end
  local sum = 0
  for _, f in ipairs(m.ffn) do sum = sum + f / #m.ffn end
  return math.ceil(sum)
end

--- F of a layer's shared experts together, and of a layer without experts.
function models.dense_widths(m)
  return m.shared_experts * mean_ffn(m),
    m.dense_ffn > 0 and m.dense_ffn or (m.top_k + m.shared_experts) * mean_ffn(m)
end

return models

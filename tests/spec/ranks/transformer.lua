-- SPDX-License-Identifier: Apache-2.0

--- One rank of transformer_spec.lua, a training of a small MoE model: run with (rank, ranks, world,
-- FILE, 'name=value' …) on threads, (FILE, …) under mpirun. Whatever the number of ranks, layouts
-- and splits, the global batches are the same; rank 0 writes losses, gradient norms and final
-- parameters to FILE as hexadecimal floats, a line per step and then a line per parameter. Values:
-- exact, dtype, schedule, rule (of the split), layouts (a seed), slots, homes (experts are
-- resident, one home in every so many ranks), scores, bias_rate, router_f32 (1), shared_experts,
-- dense_layers, dense_ffn, unshard and dispatch (fp8), group (of shards), gradients (1: no
-- training, but a check by differences, with biases).

local lib = require 'neap.base.lib'
local comm = require 'neap.engine.comm'
local layouts = require 'neap.engine.layout'
local nn = require 'neap.nn'
local optim = require 'neap.nn.optimizer'
local splits = require 'neap.engine.split'
local tensor = require 'neap.engine.tensor'
local topology = require 'neap.engine.topology'
local gradients = dofile(lib.home .. '/tests/gradients.lua')

local arguments, group = { ... }
if type(arguments[1]) == 'number' then
  group = comm.open_local(lib.ffi.cast('neap_world *', arguments[3]), arguments[1])
  arguments = { select(4, ...) }
else
  group = comm.open_mpi()
end
local rank, ranks, path = group:rank(), group:size(), table.remove(arguments, 1)
local given = { dtype = 'f32', schedule = 'laer', rule = 'minimax', layouts = '1', slots = '3' }
for _, argument in ipairs(arguments) do
  local name, value = argument:match '^([%w_]+)=(.*)$'
  given[name] = value
end

local EXPERTS, LAYERS, SEQUENCE, SEQUENCES, STEPS, VOCABULARY = 5, 3, 6, 24, 4, 11
local FFN = { 8, 12, 8, 4, 10 }

local function random(stream, index, limit)
  return tonumber(lib.C.neap_random_bits(tonumber(given.layouts), stream, index) % limit)
end

--- Other layouts in every step and layer, all valid.
local Session = {}
Session.__index = Session

local function open_session(t)
  local self = setmetatable({ topology = t, splits = {}, layouts = {} }, Session)
  for l = 0, LAYERS - 1 do
    self.layouts[l], self.splits[l] = layouts.open(t), splits.open(t, given.rule)
  end
  return self
end

function Session:advance(step)
  local t = self.topology
  for l = 0, LAYERS - 1 do
    local list, start = {}, random(step, 100 + l, t.slots)
    for slot = 0, t.slots - 1 do
      list[(slot + start) % t.slots + 1] = slot < EXPERTS and slot
        or random(step, l * 1000 + slot, EXPERTS)
    end
    self.layouts[l]:set(list)
  end
end

function Session:layout(layer) return self.layouts[layer] end

function Session:split(_, layer, load)
  return self.splits[layer]:compute(self.layouts[layer], load)
end

--- This rank's ids of a step, or targets, which are the ids one further on.
local function rows(step, shift)
  local count = SEQUENCES / ranks * SEQUENCE
  local ids = tensor.new('i32', count)
  for i = 0, count - 1 do
    ids:data()[i] = tonumber(lib.C.neap_random_bits(9, step, rank * count + i + shift) % VOCABULARY)
  end
  return ids
end

local homes = tonumber(given.homes)
local slots = math.max(tonumber(given.slots), math.ceil(EXPERTS / (homes or ranks)))
local session = open_session(topology.open { ranks = ranks, node_size = 2, slots = slots,
  experts = EXPERTS, homes = homes })
local model = nn.Transformer.new { comm = group, topology = session.topology, session = session,
  vocabulary = VOCABULARY, layers = LAYERS, hidden = 8, heads = 2, kv_heads = 1, top_k = 2,
  ffn = FFN, sequence = SEQUENCE, batch = SEQUENCES / ranks, seed = 5, aux_loss = 0.01,
  exact = given.exact == '1', schedule = given.schedule, unshard = given.unshard,
  dispatch = given.dispatch,
  group = homes and 'resident' or tonumber(given.group) or given.group or 'all',
  dtype = given.gradients and 'f64' or given.dtype, scores = given.scores,
  bias_rate = tonumber(given.bias_rate), router_f32 = given.router_f32 == '1',
  shared_experts = tonumber(given.shared_experts), dense_layers = tonumber(given.dense_layers),
  dense_ffn = tonumber(given.dense_ffn) }

--- Finite differences of loss + auxiliary loss, over all dense parameters and some of experts.
local function check_gradients()
  session:advance(1)
  for l = 0, model.layers - 1 do
    for e = 0, EXPERTS - 1 do model.experts[l]:bias()[e] = random(77, l * EXPERTS + e, 7) / 20 end
  end
  local ids, targets = rows(1, 0), rows(1, 1)
  local function loss() return model:forward(ids, targets, 1) + model:aux_loss() end
  loss()
  model:backward()
  local kept = tensor.new(model.parameters.gradients.dtype, model.parameters.gradients.count)
  kept:copy(model.parameters.gradients)
  for _, param in ipairs(model.parameters.list) do
    local miss = gradients.error(loss, param.value, kept:view(param.offset, param.count), 13)
    assert(miss < 1e-4, ('%s: off by %g'):format(param.name, miss))
  end
  for _, store in ipairs(model:shards()) do
    local value = tensor.new('f64', 3 * 8 * FFN[2])
    local claimed = store:get('gradient', 1, tensor.new('f64', value.count))
    store:get('parameter', 1, value)
    local function moved()
      store:set('parameter', 1, value)
      store:refresh()
      return loss()
    end
    local miss = gradients.error(moved, value, claimed, 37)
    moved()
    assert(miss < 1e-4, ('expert: off by %g'):format(miss))
  end
end

local lines = {}

local function write(t)
  local numbers = {}
  for i, number in ipairs(t:tolist()) do numbers[i] = ('%a'):format(number) end
  lines[#lines + 1] = table.concat(numbers, ' ')
end

local function train()
  local optimizer = optim.AdamW.new(model.parameters, { comm = group, shards = model:shards(),
    rate = 0.01, warmup = 2, steps = STEPS, clip = 0.5 })
  for step = 1, STEPS do
    session:advance(step)
    local loss = model:forward(rows(step, 0), rows(step, 1), step)
    model:backward()
    lines[step] = ('%a %a'):format(loss, optimizer:step())
    model:adapt_bias()
  end
  for _, experts in ipairs(model.experts) do
    for e = 0, EXPERTS - 1 do lines[#lines + 1] = ('bias %a'):format(experts:bias()[e]) end
  end
  write(model.parameters.values)
  for _, store in ipairs(model:shards()) do
    for e = 0, EXPERTS - 1 do
      write(store:get('parameter', e, tensor.new('f32', 24 * FFN[e + 1])))
    end
  end
end

if given.gradients then check_gradients() else train() end
if rank == 0 then
  local file = assert(io.open(path, 'w'))
  file:write(table.concat(lines, '\n'), '\n')
  file:close()
end
model:close()
group:close()

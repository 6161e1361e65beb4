-- SPDX-License-Identifier: Apache-2.0

--- Parameters and moments in checkpoints: arrays that are cut over the ranks, "dense", the flat
-- tensor of all dense parameters, and "layer0", "layer1", …, the experts of a layer, by the layer's
-- place in the model, where the first ones may have none. Each rank's file has its ranges, as
-- NAME.parameter, NAME.moment1 and NAME.moment2. Rank 0's has "bias" too, F64 (layers, experts):
-- what is added to scores where experts are chosen.

local cut = require 'neap.train.cut'
local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'

local ffi = lib.ffi

local model_state = {}

model_state.PARTS = { 'parameter', 'moment1', 'moment2' }
local OPEN_FILES = 64 -- of other ranks, at a time

--- ---- arrays ------------------------------------------------------------------------------------

local function dense_array(optimizer)
  local dense = optimizer:dense()
  return {
    name = 'dense', sizes = { dense.count }, granule = dense.granule,
    add = function(writer, part)
      writer:add_tensor('dense.' .. part, dense[part])
    end,
    put = function(part, values)
      dense[part]:copy(values)
    end,
  }
end

local function expert_array(name, store, residence)
  return {
    name = name, sizes = store.sizes, granule = store:granule(), residence = residence,
    add = function(writer, part)
      writer:add_shards(('%s.%s'):format(name, part), store, part)
    end,
    put = function(part, values)
      store:put(part, values:data())
    end,
  }
end

--- All arrays of a trainer: a list of what cut.lua calls an array, with name, add(writer, part) and
-- put(part, values).
local function arrays_of(trainer)
  local list, residence = { dense_array(trainer.optimizer) }, cut.residence(trainer.topology)
  local model = trainer.model
  for layer = 0, model.layers - 1 do
    list[#list + 1] = expert_array(model:layer_name(layer), model.stores[layer], residence)
  end
  return list
end

--- The files of a checkpoint, by rank, opened when they are first needed; a few stay open.
function model_state.files(manifest)
  local open, order = {}, {}
  return function(rank)
    if open[rank] then return open[rank] end
    if #order == OPEN_FILES then open[table.remove(order, 1)] = nil end
    open[rank] = folder.open(manifest, rank)
    order[#order + 1] = rank
    return open[rank]
  end
end

--- What a checkpoint has of ranges of an array, in a part ('parameter', 'moment1', 'moment2'): a
-- tensor in host memory, one range after the other. array: the checkpoint's; wanted, count: what
-- cut.of gives; file_of: what files gave; values: a tensor to fill, if there is one. Raises FORMAT
-- and SYSTEM.
function model_state.read(manifest, file_of, array, part, wanted, count, values)
  values = values or tensor.new_host(manifest.masters, count)
  for holder = 0, count > 0 and manifest.ranks - 1 or -1 do
    local held = cut.of(array, holder, manifest.ranks)
    if cut.meets(held, wanted, #array.sizes) then
      file_of(holder):ranges(('%s.%s'):format(array.name, part), manifest.masters, #array.sizes,
        held, wanted, values:data())
    end
  end
  return values
end

--- ---- the model that a checkpoint is of ---------------------------------------------------------

--- What a checkpoint says of the model, so that another one is found out, and for export.
function model_state.describe(trainer)
  local dense, arrays = {}, {}
  for i, parameter in ipairs(trainer.model.parameters.list) do
    dense[i] = { name = parameter.name, dims = parameter.dims, offset = parameter.offset }
  end
  for i, array in ipairs(arrays_of(trainer)) do
    arrays[i] = { name = array.name, sizes = array.sizes, granule = array.granule,
      residence = array.residence }
  end
  return { dense = dense, arrays = arrays, experts = { layers = trainer.model.layers,
    hidden = trainer.params.hidden, ffn = trainer.model.ffn,
    dense_layers = trainer.model.options.dense_layers } }
end

--- Whether two lists of numbers are the same.
local function same_list(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

--- Dimensions for people; nil: absent.
local function shape(dims)
  return dims and '(' .. table.concat(dims, ', ') .. ')' or 'absent'
end

model_state.same_list, model_state.shape = same_list, shape

--- What differs between two models first: what it is, there and here; nil if nothing does.
local function difference(there, here)
  if there.experts.hidden ~= here.experts.hidden then
    return 'hidden', there.experts.hidden, here.experts.hidden
  end
  if there.experts.layers ~= here.experts.layers then
    return 'layers', there.experts.layers, here.experts.layers
  end
  if (there.experts.dense_layers or 0) ~= here.experts.dense_layers then
    return 'dense_layers', there.experts.dense_layers or 0, here.experts.dense_layers
  end
  if #there.experts.ffn ~= #here.experts.ffn then
    return 'experts', #there.experts.ffn, #here.experts.ffn
  end
  if not same_list(there.experts.ffn, here.experts.ffn) then
    return 'ffn', shape(there.experts.ffn), shape(here.experts.ffn)
  end
  for i, parameter in ipairs(here.dense) do
    local other = there.dense[i]
    local name = other and other.name
    if name ~= parameter.name then return 'a parameter', name or 'absent', parameter.name end
    if not same_list(other.dims, parameter.dims) or other.offset ~= parameter.offset then
      return name, shape(other.dims), shape(parameter.dims)
    end
  end
  if #there.dense > #here.dense then
    return 'a parameter', there.dense[#here.dense + 1].name, 'absent'
  end
  for i, array in ipairs(here.arrays) do
    local other = there.arrays[i] or { name = 'absent', sizes = {} }
    if other.name ~= array.name or not same_list(other.sizes, array.sizes) then
      return 'an array', other.name .. shape(other.sizes), array.name .. shape(array.sizes)
    end
  end
end

--- Raises USAGE if a checkpoint is not of the trainer's model.
local function check_model(manifest, trainer)
  local what, there, here = difference(manifest, model_state.describe(trainer))
  local masters = tensor.acc_of(trainer.params.dtype)
  if not what and manifest.masters ~= masters then
    what, there, here = 'the type of masters', manifest.masters, masters
  end
  if what then
    errors.usage('%s is of another model: %s is %s there and %s here', manifest.path, what, there,
      here)
  end
end

--- ---- saving and loading ------------------------------------------------------------------------

--- Adds this rank's ranges to its file.
function model_state.add(writer, trainer)
  for _, array in ipairs(arrays_of(trainer)) do
    for _, part in ipairs(model_state.PARTS) do array.add(writer, part) end
  end
end

--- Adds to rank 0's file the experts' biases.
function model_state.add_bias(writer, trainer)
  local layers, experts = trainer.session.layers, trainer.topology.experts
  local values = ffi.new('double[?]', layers * experts)
  for layer = 0, layers - 1 do
    ffi.copy(values + layer * experts, trainer.model.experts[layer]:bias(), experts * 8)
  end
  writer:add('bias', 'f64', { layers, experts }, values)
end

--- Checkpoints of before there were biases have none: they are 0. Raises FORMAT.
local function load_bias(file, trainer)
  local values, dims = file:read('bias', 'f64')
  local layers, experts = trainer.session.layers, trainer.topology.experts
  if values and not same_list(dims, { layers, experts }) then
    lib.raise('FORMAT', ("%s: tensor 'bias' is %s; expected %s"):format(file.path, shape(dims),
      shape { layers, experts }))
  end
  for layer = 0, layers - 1 do
    local bias = trainer.model.experts[layer]:bias()
    if values then
      ffi.copy(bias, values + layer * experts, experts * 8)
    else
      ffi.fill(bias, experts * 8)
    end
  end
end

--- Brings a trainer, just opened, to where the checkpoint was; what has been brought before is
-- replaced, so that it may fail and be called with another one. Not collective. Raises USAGE
-- (another model), FORMAT, SYSTEM.
function model_state.load(manifest, trainer)
  check_model(manifest, trainer)
  local file_of, job = model_state.files(manifest), trainer.job
  for i, array in ipairs(arrays_of(trainer)) do
    local wanted, count, values = cut.of(array, job.rank, job.ranks)
    for _, part in ipairs(model_state.PARTS) do
      values = model_state.read(manifest, file_of, manifest.arrays[i], part, wanted, count, values)
      array.put(part, values)
    end
    values:close()
  end
  load_bias(file_of(0), trainer)
end

return model_state

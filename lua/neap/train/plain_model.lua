-- SPDX-License-Identifier: Apache-2.0

--- Parameters of a checkpoint as plain named tensors, in one safetensors file that any reader of
-- such files takes; and back.
--
--   embed (V, H), layer0.attention…, norm, head …      the dense ones, as the model names them
--   layer0.expert3.w1 (H, 2F): gate, then up; layer0.expert3.w2 (F, H)
--   NAME.moment1, NAME.moment2                          AdamW's, where they are asked for
--   layer0.router_bias (E)                              F64, of models that have moved their biases
--
-- The metadata's "neap" is the checkpoint's manifest without its files.

local lib = require 'neap.base.lib'
local checkpoint = require 'neap.engine.checkpoint'
local cut = require 'neap.train.cut'
local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local json = require 'neap.base.json'
local model_state = require 'neap.train.model_state'
local tensor = require 'neap.engine.tensor'

local same_list, shape = model_state.same_list, model_state.shape

local ffi = lib.ffi

local plain_model = {}

local NOTE = 'neap'
local SUFFIX = { parameter = '', moment1 = '.moment1', moment2 = '.moment2' }
local SIZE = { f32 = 4, f64 = 8 }

local function product(dims)
  local count = 1
  for _, dim in ipairs(dims) do count = count * dim end
  return count
end

--- The tensors of an array of a manifest, in its order: a list of { name, dims, first, count },
-- first being the element of the whole array.
local function tensors_of(manifest, index)
  local list, array = {}, manifest.arrays[index]
  local function add(name, dims, first)
    list[#list + 1] = { name = name, dims = dims, first = first, count = product(dims) }
  end
  if array.name == 'dense' then
    for _, p in ipairs(manifest.dense) do add(p.name, p.dims, p.offset) end
    return list
  end
  local first, hidden = 0, manifest.experts.hidden
  for e, ffn in ipairs(manifest.experts.ffn) do
    local name = ('%s.expert%d'):format(array.name, e - 1)
    add(name .. '.w1', { hidden, 2 * ffn }, first)
    add(name .. '.w2', { ffn, hidden }, first + 2 * hidden * ffn)
    first = first + array.sizes[e]
  end
  return list
end

--- ---- biases ------------------------------------------------------------------------------------

--- Names of the tensors of a model's biases, one for each array of experts.
local function bias_names(manifest)
  local names = {}
  for index = 2, #manifest.arrays do
    names[index - 1] = manifest.arrays[index].name .. '.router_bias'
  end
  return names
end

--- What a checkpoint has of biases, double[layers][experts], nil if they have never moved.
local function biases_of(manifest, file)
  local values, dims = file:read('bias', 'f64')
  local count = #bias_names(manifest) * #manifest.experts.ffn
  for i = 0, values and dims[1] * dims[2] == count and count - 1 or -1 do
    if values[i] ~= 0 then return values end
  end
end

--- The same of a file of plain tensors.
local function read_biases(file, manifest)
  local experts, found = #manifest.experts.ffn, false
  local values = ffi.new('double[?]', #bias_names(manifest) * experts)
  for i, name in ipairs(bias_names(manifest)) do
    local entry = file.tensors[name]
    if entry and (entry.dtype ~= 'f64' or not same_list(entry.dims, { experts })) then
      lib.raise('SHAPE', ("%s: tensor '%s' is %s %s; the model has f64 %s"):format(file.path, name,
        entry.dtype or '?', shape(entry.dims), shape { experts }))
    end
    if entry then file:read_range(name, 'f64', 0, experts, values + (i - 1) * experts) end
    found = found or entry ~= nil
  end
  return found and values or nil
end

--- Elements of an array, all together.
local function elements(array)
  local sum = 0
  for _, size in ipairs(array.sizes) do sum = sum + size end
  return sum
end

--- Raises FORMAT if a manifest's arrays and tensors do not fit together.
local function check(manifest)
  for index, array in ipairs(manifest.arrays) do
    local most = elements(array)
    for _, entry in ipairs(tensors_of(manifest, index)) do
      if entry.first + entry.count > most then
        lib.raise('FORMAT', ("%s: tensor '%s' reaches past the end of array '%s'"):format(
          manifest.path, entry.name, array.name))
      end
    end
  end
end

--- Dense and expert parameters of a manifest together.
function plain_model.count(manifest)
  local sum = 0
  for index in ipairs(manifest.arrays) do
    for _, entry in ipairs(tensors_of(manifest, index)) do sum = sum + entry.count end
  end
  return sum
end

--- ---- out ---------------------------------------------------------------------------------------

local function about(manifest)
  local copy = {}
  for name, value in pairs(manifest) do copy[name] = value end
  copy.files, copy.path, copy.crc32 = nil, nil, nil
  setmetatable(copy.parameters, { __jsontype = 'object' })
  return json.encode(copy)
end

--- Writes the parameters of the checkpoint at a path, with optimizer the moments too, to a file.
-- Returns how many tensors, and bytes. Raises FORMAT and SYSTEM; what the file was before stays
-- then.
function plain_model.export(path, to, optimizer)
  local manifest = folder.manifest(path)
  check(manifest)
  local parts, list = optimizer and model_state.PARTS or { 'parameter' }, {}
  for index in ipairs(manifest.arrays) do
    for _, part in ipairs(parts) do
      for _, entry in ipairs(tensors_of(manifest, index)) do
        list[#list + 1] = { entry.name .. SUFFIX[part], manifest.masters, entry.dims }
      end
    end
  end
  local file_of, size = model_state.files(manifest), SIZE[manifest.masters]
  local biases, experts = biases_of(manifest, file_of(0)), #manifest.experts.ffn
  for _, name in ipairs(biases and bias_names(manifest) or {}) do
    list[#list + 1] = { name, 'f64', { experts } }
  end
  local writer = checkpoint.tensors_writer(to, list, { [NOTE] = about(manifest) })
  for index, array in ipairs(manifest.arrays) do
    for _, part in ipairs(parts) do
      local values = model_state.read(manifest, file_of, array, part, cut.whole(array))
      for _, entry in ipairs(tensors_of(manifest, index)) do
        writer:append(ffi.cast('const char *', values:data()) + entry.first * size,
          entry.count * size)
      end
      values:close()
    end
  end
  if biases then writer:append(biases, #bias_names(manifest) * experts * 8) end
  return #list, writer:finish()
end

--- ---- in ----------------------------------------------------------------------------------------

--- What an imported checkpoint is like: another checkpoint, or what the file says of itself.
local function model_of(file, like)
  if like then return folder.manifest(like) end
  local text = file:note(NOTE)
  local manifest = text and json.decode(text)
  if not manifest then
    errors.usage('%s: does not say what model it is of (its metadata are gone): name a checkpoint '
      .. 'of such a model by --like', file.path)
  end
  manifest.files = {}
  for rank = 1, manifest.ranks do
    manifest.files[rank] = { name = folder.rank_name(rank - 1), bytes = 0, seal = 0 }
  end
  return folder.checked(manifest, file.path)
end

--- Raises SHAPE if the file lacks a tensor, has it in another shape, or has one that nobody knows.
local function check_tensors(file, manifest)
  local wanted, names = {}, {}
  for _, name in ipairs(bias_names(manifest)) do wanted[name] = true end
  for index in ipairs(manifest.arrays) do
    for _, entry in ipairs(tensors_of(manifest, index)) do
      wanted[entry.name], names[#names + 1] = entry, entry.name
      local found = file.tensors[entry.name]
      if not found then
        lib.raise('SHAPE', ("%s: has no tensor '%s' %s%s"):format(file.path, entry.name,
          shape(entry.dims), lib.hint(entry.name, lib.sorted_keys(file.tensors))))
      end
      if not same_list(found.dims, entry.dims) then
        lib.raise('SHAPE', ("%s: tensor '%s' is %s; the model has %s"):format(file.path, entry.name,
          shape(found.dims), shape(entry.dims)))
      end
      if not (found.dtype == 'f32' or found.dtype == 'f64' or found.dtype == 'bf16') then
        lib.raise('SHAPE', ("%s: tensor '%s' is of a type that cannot be taken; F32, F64 and BF16 "
          .. 'can'):format(file.path, entry.name))
      end
    end
  end
  for _, name in ipairs(lib.sorted_keys(file.tensors)) do
    if not wanted[name:gsub('%.moment[12]$', '')] then
      lib.raise('SHAPE', ("%s: tensor '%s' is none of the model's%s"):format(file.path, name,
        lib.hint(name, names)))
    end
  end
end

--- The parameters of an array, of the masters' type, from the file.
local function read_array(file, manifest, index)
  local values = tensor.new_host(manifest.masters, elements(manifest.arrays[index])):fill(0)
  for _, entry in ipairs(tensors_of(manifest, index)) do
    local dtype = file.tensors[entry.name].dtype
    local part = tensor.new_host(dtype, entry.count)
    file:read_range(entry.name, dtype, 0, entry.count, part:data())
    values:copy(part, entry.count, entry.first, 0)
    part:close()
  end
  return values
end

--- The manifest of a checkpoint of step 0 on one rank, of the same model, recipe and parameters.
local function fresh(manifest, path)
  local copy = {}
  for name, value in pairs(manifest) do copy[name] = value end
  copy.path, copy.crc32, copy.columns = path, nil, nil
  copy.training, copy.step, copy.ranks, copy.node_of = 1, 0, 1, { 0 }
  copy.numbers, copy.series, copy.segments, copy.arrays = {}, {}, {}, {}
  for i, array in ipairs(manifest.arrays) do
    copy.arrays[i] = { name = array.name, sizes = array.sizes, granule = array.granule }
  end
  copy.policy.kept, copy.time = 'none', math.floor(lib.C.neap_time())
  setmetatable(copy.parameters, { __jsontype = 'object' })
  return copy
end

--- What rank 0's file has besides, when nothing has been trained yet.
local function add_nothing(writer, manifest, biases)
  local layers, experts = manifest.experts.layers, #manifest.experts.ffn
  local none = ffi.new 'double[1]'
  local layouts = ffi.new('int32_t[?]', layers * manifest.slots)
  for i = 0, layers * manifest.slots - 1 do layouts[i] = i % manifest.slots % experts end
  if biases then writer:add('bias', 'f64', { layers, experts }, biases) end
  writer:add('layouts', 'i32', { layers, manifest.slots }, layouts)
  writer:add('loads', 'i64', { layers, 0, 1, experts }, none)
  writer:add('proposals', 'i64', { 0, 2 + manifest.slots }, none)
  writer:add('numbers', 'f64', { 0 }, none)
end

--- Makes a checkpoint folder whose run begins, at step 0, with the parameters of a file. like: path
-- of a checkpoint of such a model; nil: the file says it itself. Returns the checkpoint's path.
-- Raises USAGE, SHAPE, FORMAT, SYSTEM.
function plain_model.import(from, root, like)
  local file = checkpoint.reader(from)
  local manifest = model_of(file, like)
  check(manifest)
  check_tensors(file, manifest)
  if #folder.trainings(root) > 0 then
    errors.usage('%s: has checkpoints; name another folder', root)
  end
  local path = folder.step_path(root, 1, 0)
  manifest = fresh(manifest, path)
  checkpoint.make_folder(path)
  local writer, keep = checkpoint.writer(), {}
  writer:begin(('%s/%s'):format(path, folder.rank_name(0)))
  for index, array in ipairs(manifest.arrays) do
    local values = read_array(file, manifest, index)
    local zeros = tensor.new_host(manifest.masters, values.count):fill(0)
    keep[#keep + 1], keep[#keep + 2] = values, zeros
    writer:add(array.name .. '.parameter', manifest.masters, { values.count }, values:data())
    for _, part in ipairs { 'moment1', 'moment2' } do
      writer:add(('%s.%s'):format(array.name, part), manifest.masters, { values.count },
        zeros:data())
    end
  end
  add_nothing(writer, manifest, read_biases(file, manifest))
  writer:start()
  for _, values in ipairs(keep) do values:close() end
  local written = writer:wait()
  writer:close()
  manifest.path = nil
  manifest.files = { { name = folder.rank_name(0), bytes = written.bytes, seal = written.seal } }
  checkpoint.seal(folder.manifest_path(path), json.encode(manifest))
  return path
end

return plain_model

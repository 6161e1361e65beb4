-- SPDX-License-Identifier: Apache-2.0

--- Tensors: dense, row-major arrays of one type; views share memory.
--
--   local tensor = require 'neap.engine.tensor'
--   local w = tensor.new('f32', 4, 8):normal(seed, stream, 0, 0.02)
--   local row = w:view(8, 8)           -- elements 8 to 15 as a vector
--   w:data()[0] = 1                    -- typed pointer, valid as long as w is

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local tensor = {}

local Tensor = {}
Tensor.__index = Tensor
tensor.Tensor = Tensor

--- Codes of the engine by type, and the types that parameters can have.
tensor.codes = {
  bf16 = C.NEAP_BF16, f32 = C.NEAP_F32, f64 = C.NEAP_F64, i32 = C.NEAP_I32, i64 = C.NEAP_I64,
  u8 = C.NEAP_U8,
}
local POINTERS = {
  bf16 = ffi.typeof 'uint16_t *', -- their bits
  f32 = ffi.typeof 'float *', f64 = ffi.typeof 'double *', i32 = ffi.typeof 'int32_t *',
  i64 = ffi.typeof 'int64_t *', u8 = ffi.typeof 'uint8_t *',
}
tensor.reals = { 'bf16', 'f32', 'f64' }
local CODES = tensor.codes
local TYPES = lib.sorted_keys(CODES)
local MOST_DIMS = 4

local out = ffi.new 'neap_tensor *[1]'
local dims = ffi.new('int64_t[?]', MOST_DIMS)

--- Dimensions as C takes them, and how many.
local function set_dims(...)
  local count = select('#', ...)
  for i = 1, math.min(count, MOST_DIMS) do
    local dim = select(i, ...)
    if type(dim) ~= 'number' or dim % 1 ~= 0 then
      lib.raise('ARGUMENT', ('tensor: dimension %d is %s; it must be a whole number'):format(
        i, tostring(dim)), 3)
    end
    dims[i - 1] = dim
  end
  return count
end

local function wrap(dtype)
  local object = lib.handle(Tensor, out[0], C.neap_tensor_close)
  object.dtype = dtype
  object.pointer = ffi.cast(POINTERS[dtype], C.neap_tensor_data(object.ptr))
  object.count = tonumber(C.neap_tensor_count(object.ptr))
  object.on_host = C.neap_tensor_on_host(object.ptr) == 1
  return object
end

--- The accumulation type of a type: of statistics, logits, master parameters and gradients.
-- : string -> string
function tensor.acc_of(dtype)
  return dtype == 'bf16' and 'f32' or dtype
end

--- A tensor of a type ('bf16', 'f32', 'f64', 'i32', 'i64', 'u8') and 1 to 4 dimensions; content
-- undefined.
-- : string, integer… -> Tensor
function tensor.new(dtype, ...)
  if not CODES[dtype] then
    lib.raise('ARGUMENT', ("tensor: type '%s' is unknown%s; there are %s"):format(tostring(dtype),
      lib.hint(tostring(dtype), TYPES), table.concat(TYPES, ', ')), 2)
  end
  local count = set_dims(...)
  check(C.neap_tensor_open(CODES[dtype], count, dims, out), 2)
  return wrap(dtype)
end

--- The same in host memory, whatever the rank's device: for copies from and to a GPU.
-- : string, integer… -> Tensor
function tensor.new_host(dtype, ...)
  local count = set_dims(...)
  check(C.neap_tensor_open_host(CODES[dtype], count, dims, out), 2)
  return wrap(dtype)
end

--- A tensor of zeros.
-- : string, integer… -> Tensor
function tensor.zeros(dtype, ...)
  return tensor.new(dtype, ...):fill(0)
end

local function flatten(list, sizes, values, depth)
  sizes[depth] = sizes[depth] or #list
  if sizes[depth] ~= #list then
    lib.raise('SHAPE', ('tensor: a row has %d elements; another has %d'):format(
      #list, sizes[depth]), 4)
  end
  for _, item in ipairs(list) do
    if type(item) == 'table' then
      flatten(item, sizes, values, depth + 1)
    else
      values[#values + 1] = item
    end
  end
end

--- A tensor of a list, or of a list of lists of equal length.
-- : string, list -> Tensor
function tensor.of(dtype, list)
  local sizes, values = {}, {}
  flatten(list, sizes, values, 1)
  if dtype == 'bf16' then
    return tensor.new(dtype, unpack(sizes)):copy(tensor.of('f32', list))
  end
  local t = tensor.new(dtype, unpack(sizes))
  local host = t.on_host and t or tensor.new_host(dtype, unpack(sizes))
  for i, value in ipairs(values) do
    host.pointer[i - 1] = value
  end
  return t == host and t or t:copy(host)
end

--- A tensor of these dimensions: old itself, or old's memory seen anew, if it is of that type and
-- large enough; else a new one. For buffers that are made once and reused.
-- : Tensor?, string, integer… -> Tensor
function tensor.reuse(old, dtype, ...)
  local count = set_dims(...)
  if old and old.dtype == dtype and old:has_dims(...) then
    return old
  end
  local base, wanted = old and (old.base or old), 1
  for i = 0, count - 1 do wanted = wanted * tonumber(dims[i]) end
  if not base or base.dtype ~= dtype or base.count < wanted then
    return tensor.new(dtype, ...)
  end
  local view = base:view(0, ...)
  view.base = base
  return view
end

--- Elements offset, offset + 1, … of the tensor as one of other dimensions.
-- : integer, integer… -> Tensor
function Tensor:view(offset, ...)
  local count = set_dims(...)
  check(C.neap_tensor_view(self.ptr, offset, count, dims, out), 2)
  return wrap(self.dtype)
end

--- The tensor itself if the host can read it, else a copy in host memory.
-- : -> Tensor
function Tensor:host()
  if self.on_host then return self end
  return tensor.new_host(self.dtype, self:dims()):copy(self)
end

--- What can be read as numbers: the tensor itself, or a copy in host memory, of bf16 in f32.
local function readable(t)
  if t.dtype == 'bf16' then t = tensor.new('f32', t:dims()):copy(t) end
  return t:host()
end

--- Typed pointer to the elements, of bf16 to their bits; valid as long as the tensor is. On a GPU
-- (not on_host) only to be handed on.
-- : -> pointer
function Tensor:data()
  return self.pointer
end

--- Size of a dimension, counted from 1.
-- : integer -> integer
function Tensor:dim(axis)
  return tonumber(C.neap_tensor_dim(self.ptr, axis))
end

--- Whether the dimensions are these.
-- : integer… -> boolean
function Tensor:has_dims(...)
  local count = select('#', ...)
  if C.neap_tensor_ndim(self.ptr) ~= count then return false end
  for i = 1, count do
    if C.neap_tensor_dim(self.ptr, i - 1) ~= select(i, ...) then return false end
  end
  return true
end

--- Dimensions, as several results.
-- : -> integer…
function Tensor:dims()
  local list = {}
  for i = 1, C.neap_tensor_ndim(self.ptr) do
    list[i] = self:dim(i - 1)
  end
  return unpack(list)
end

--- Every element becomes value.
-- : number -> Tensor
function Tensor:fill(value)
  check(C.neap_tensor_fill(self.ptr, value), 2)
  return self
end

--- Element i becomes scale x normal(seed, stream, first + i), whatever the shape.
-- : integer, integer, integer, number -> Tensor
function Tensor:normal(seed, stream, first, scale)
  check(C.neap_tensor_normal(self.ptr, seed, stream, first or 0, scale or 1), 2)
  return self
end

--- Copies from another float tensor: all elements, or count of them between offsets, rounded to
-- nearest.
-- : Tensor, integer?, integer?, integer? -> Tensor
function Tensor:copy(from, count, to_offset, from_offset)
  if not count and from.count ~= self.count then
    lib.raise('SHAPE', ('tensor copy: from %s to %s'):format(from:shape(), self:shape()), 2)
  end
  check(C.neap_tensor_copy(self.ptr, to_offset or 0, from.ptr, from_offset or 0,
    count or self.count), 2)
  return self
end

--- Closes the tensor now; its views stay valid.
function Tensor:close()
  lib.close(self)
  self.pointer, self.count, self.dtype = nil, nil, nil
end

local function nest(t, sizes, axis, at)
  local list = {}
  for i = 1, sizes[axis] do
    if axis == #sizes then
      list[i], at = tonumber(t.pointer[at]), at + 1
    else
      list[i], at = nest(t, sizes, axis + 1, at)
    end
  end
  return list, at
end

--- The elements as a list, or as nested lists of numbers.
-- : -> list
function Tensor:tolist()
  return (nest(readable(self), { self:dims() }, 1, 0))
end

--- "f32 (4, 8)".
-- : -> string
function Tensor:shape()
  return ('%s (%s)'):format(self.dtype, table.concat({ self:dims() }, ', '))
end

local SHOWN = 8

function Tensor:__tostring()
  local items, host = {}, readable(self)
  for i = 1, math.min(self.count, SHOWN) do
    items[i] = ('%g'):format(tonumber(host.pointer[i - 1]))
  end
  return ('%s: %s%s'):format(self:shape(), table.concat(items, ' '),
    self.count > SHOWN and ' …' or '')
end

return tensor

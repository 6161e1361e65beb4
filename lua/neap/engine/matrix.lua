-- SPDX-License-Identifier: Apache-2.0

--- Matrices as the engine takes them: from nested lists, flat lists, C arrays, or objects with such
-- an array in .ptr (a load of a history).

local lib = require 'neap.base.lib'

local ffi = lib.ffi

local matrix = {}

local TYPES = { double = ffi.typeof 'double[?]', int64_t = ffi.typeof 'int64_t[?]' }
local READY = {
  double = { ffi.typeof 'double *', ffi.typeof 'const double *' },
  int64_t = { ffi.typeof 'int64_t *', ffi.typeof 'const int64_t *' },
}
local INT64 = { ffi.typeof 'int64_t', ffi.typeof 'uint64_t' }

local function is_number(value)
  return type(value) == 'number' or ffi.istype(INT64[1], value) or ffi.istype(INT64[2], value)
end

--- Whether a C array already has the elements that are wanted.
local function ready(value, kind)
  for _, pointer in ipairs(READY[kind]) do
    if ffi.istype(pointer, value) then return true end
  end
  return ffi.istype(TYPES[kind], value)
end

local function bad(what, message, ...)
  lib.raise('SHAPE', ('%s: ' .. message):format(what, ...), 5)
end

--- One element, whole if it is to be an int64_t.
local function convert(value, kind, what, position)
  if not is_number(value) then
    bad(what, 'element %s is %s; it must be a number', position, tostring(value))
  end
  if kind == 'int64_t' and type(value) == 'number' and value % 1 ~= 0 then
    bad(what, 'element %s is %s; it must be a whole number', position, value)
  end
  return value
end

local function from_flat(list, n, kind, what)
  if #list ~= n then bad(what, '%d elements; expected are %d', #list, n) end
  local out = TYPES[kind](n)
  for i = 1, n do out[i - 1] = convert(list[i], kind, what, i) end
  return out
end

local function from_rows(rows, height, width, kind, what)
  if #rows ~= height then bad(what, '%d rows; expected are %d', #rows, height) end
  local out = TYPES[kind](height * width)
  for r, row in ipairs(rows) do
    if type(row) ~= 'table' or #row ~= width then
      bad(what, 'row %d has %s elements; expected are %d', r - 1,
        type(row) == 'table' and #row or 'no', width)
    end
    for c, value in ipairs(row) do
      out[(r - 1) * width + c - 1] = convert(value, kind, what, ('%d of row %d'):format(c, r - 1))
    end
  end
  return out
end

local function from_array(array, n, kind)
  if ready(array, kind) then return array end
  local out = TYPES[kind](n)
  for i = 0, n - 1 do out[i] = array[i] end
  return out
end

--- value as a C array of height x width elements of kind ('double' or 'int64_t'): itself if it is
-- one, else a copy. what: begins the message of the SHAPE error.
function matrix.matrix(value, height, width, kind, what)
  if type(value) == 'table' and value.ptr then value = value.ptr end
  if type(value) == 'cdata' and not is_number(value) then
    return from_array(value, height * width, kind)
  end
  if type(value) ~= 'table' then
    bad(what, 'it is a %s; expected are %d lists of %d numbers, or a C array', type(value), height,
      width)
  end
  if type(value[1]) == 'table' then return from_rows(value, height, width, kind, what) end
  return from_flat(value, height * width, kind, what)
end

return matrix

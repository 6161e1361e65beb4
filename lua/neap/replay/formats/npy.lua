-- SPDX-License-Identifier: Apache-2.0

--- NumPy's .npy: loads [steps, layers, ranks, experts], counts [layers, experts], or the experts of
-- every token [tokens, layers, K], as vLLM and slime give them (routed_experts). The format is
-- numpy.lib.format's, versions 1 to 3.

local lib = require 'neap.base.lib'
local arrays = require 'neap.replay.formats.arrays'

local ffi = lib.ffi

local npy = {}

npy.MAGIC = '\147NUMPY'

local CTYPES = { i1 = 'int8_t', u1 = 'uint8_t', i2 = 'int16_t', u2 = 'uint16_t', i4 = 'int32_t',
  u4 = 'uint32_t', i8 = 'int64_t', u8 = 'uint64_t', f4 = 'float', f8 = 'double' }

local MOST_HEADER = 2 ^ 20

local function fail(path, text, ...)
  lib.raise('FORMAT', ('%s: '):format(path) .. text:format(...), 2)
end

local function little(text)
  local value = 0
  for i = #text, 1, -1 do value = value * 256 + text:byte(i) end
  return value
end

--- The header's text: a Python dict.
local function header_of(file, path)
  local start = file:read(8) or ''
  local version = start:byte(7)
  if start:sub(1, 6) ~= npy.MAGIC or not version or version < 1 or version > 3 then
    fail(path, 'byte 0: no .npy file of version 1 to 3')
  end
  local width = version == 1 and 2 or 4
  local size = file:read(width) or ''
  local length = little(size)
  local text = #size == width and length > 0 and length <= MOST_HEADER and file:read(length)
  if not text or #text < length then fail(path, 'byte 8: the header is truncated or damaged') end
  return text
end

--- An array (formats/arrays.lua) of a file that is open.
function npy.open(file, path)
  local text = header_of(file, path)
  local descr = text:match "'descr'%s*:%s*'([^']*)'"
  local order = text:match "'fortran_order'%s*:%s*(%a+)"
  local dims = text:match "'shape'%s*:%s*%(([^)]*)%)"
  if not (descr and order and dims) then
    fail(path, 'byte 10: the header is damaged: %.80s', text)
  end
  local ctype = CTYPES[descr:match '^[<|=](..)$' or '']
  if not ctype then
    fail(path, "its elements are '%s'; they must be integers (or floats that are whole), "
      .. 'little-endian: array.astype("<i4")', descr)
  end
  if order ~= 'False' then
    fail(path, 'it is stored by columns; numpy.save(path, numpy.ascontiguousarray(array))')
  end
  local shape, bytes, at = {}, ffi.sizeof(ctype), file:seek()
  for size in dims:gmatch '%d+' do
    shape[#shape + 1] = tonumber(size)
    bytes = bytes * tonumber(size)
  end
  local length = file:seek 'end' - at
  if bytes ~= length then
    fail(path, 'byte %d: an array (%s) of %d bytes each has %.0f bytes; here are %d: it is '
      .. 'truncated or damaged', at, dims, ffi.sizeof(ctype), bytes, length)
  end
  file:seek('set', at)
  return arrays.of_file(file, path, shape, ctype,
    function() fail(path, 'it has become shorter while it was read') end)
end

--- What the number of dimensions says.
local KINDS = { [2] = 'counts', [3] = 'choices', [4] = 'loads' }

--- Adds what a file has. kind: 'loads', 'counts' or 'choices', or nil for what its shape says.
function npy.add(counts, path, kind, place)
  local file = assert(io.open(path, 'rb'))
  local ok, err = pcall(function()
    local array = npy.open(file, path)
    arrays.add(counts, array, kind or KINDS[#array.shape] or 'loads', place)
    return array.shape
  end)
  file:close()
  if not ok then error(err, 0) end
  return err
end

return npy

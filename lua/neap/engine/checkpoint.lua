-- SPDX-License-Identifier: Apache-2.0

--- Files of checkpoints: written beside the training, whole or not there, checked when they are
-- read; and the texts, folders and locks that go with them.
--
--   local w = checkpoint.writer()
--   w:begin 'step-40/rank-0.safetensors'
--   w:add('layouts', 'i32', { 3, 8 }, pointer)
--   w:add_shards('layer0.parameter', store, 'parameter')
--   w:start()                                  -- returns when all has been copied
--   local file = w:wait()                      -- { bytes =, seal = }, for the manifest
--
--   local r = checkpoint.reader('step-40/rank-0.safetensors', file)
--   local values = r:read('layouts', 'i32')    -- an array in C memory, and its dims
--
-- Errors: SYSTEM (the disk refused), FORMAT (damaged), SHAPE (no such tensor, or another type).

local lib = require 'neap.base.lib'
local shards = require 'neap.engine.shards'
local tensor = require 'neap.engine.tensor'

local ffi, C, check = lib.ffi, lib.C, lib.check

local checkpoint = {}

local Writer, Reader, TensorsWriter, Lock = {}, {}, {}, {}
Writer.__index, Reader.__index = Writer, Reader
TensorsWriter.__index, Lock.__index = TensorsWriter, Lock

local CODES, ARRAYS = tensor.codes, {
  bf16 = 'uint16_t[?]', f32 = 'float[?]', f64 = 'double[?]', i32 = 'int32_t[?]',
  i64 = 'int64_t[?]', u8 = 'uint8_t[?]',
}
local NAMES = {}
for name, code in pairs(CODES) do NAMES[tonumber(code)] = name end

local MOST_DIMS = 8
local about = ffi.new 'neap_checkpoint_file'

local function dims_of(list)
  return ffi.new('int64_t[?]', MOST_DIMS, list), #list
end

-- ---- writing ------------------------------------------------------------------------------------

--- A writer for one rank's files, one at a time.
function checkpoint.writer()
  local out = ffi.new 'neap_checkpoint_writer *[1]'
  check(C.neap_checkpoint_writer_open(out), 2)
  local self = lib.handle(Writer, out[0], C.neap_checkpoint_writer_close)
  self.kept = {}
  return self
end

function Writer:begin(path)
  check(C.neap_checkpoint_writer_begin(self.ptr, path), 2)
  self.kept = {}
end

--- pointer: elements of a type in C memory, which stay as they are until start has returned.
function Writer:add(name, dtype, dims, pointer)
  local list, count = dims_of(dims)
  self.kept[#self.kept + 1] = pointer
  check(C.neap_checkpoint_writer_add(self.ptr, name, CODES[dtype], count, list, pointer), 2)
end

function Writer:add_tensor(name, value)
  check(C.neap_checkpoint_writer_add_tensor(self.ptr, name, value.ptr), 2)
end

--- This rank's ranges of a store's part ('parameter', 'moment1', …), one expert after the other.
function Writer:add_shards(name, store, part)
  check(C.neap_checkpoint_writer_add_shards(self.ptr, name, store.ptr, shards.part(part)), 2)
end

--- Copies what was added; a thread writes the copy.
function Writer:start()
  check(C.neap_checkpoint_writer_start(self.ptr), 2)
  self.kept = {}
end

--- Seals a text, a JSON object, and writes it in a thread.
function Writer:commit(path, text)
  check(C.neap_checkpoint_writer_commit(self.ptr, path, text, #text), 2)
end

--- Removes a file, or a folder and its files, in a thread.
function Writer:remove(path)
  check(C.neap_checkpoint_writer_remove(self.ptr, path), 2)
end

function Writer:busy()
  return C.neap_checkpoint_writer_busy(self.ptr) == 1
end

--- Waits for what start, commit or remove began, and raises its error. { bytes =, seal = } of the
-- file that start wrote last.
function Writer:wait()
  check(C.neap_checkpoint_writer_wait(self.ptr, about), 2)
  return { bytes = tonumber(about.bytes), seal = about.seal }
end

function Writer:close()
  lib.close(self)
end

-- ---- reading ------------------------------------------------------------------------------------

--- Opens a rank's file; file: what its writer told, from the manifest; nil: any safetensors file.
-- tensors, a field: { name = { dtype = (nil: one that there is none of here), dims =, count = } }.
function checkpoint.reader(path, file)
  local out = ffi.new 'neap_checkpoint_reader *[1]'
  if file then about.bytes, about.seal = file.bytes, file.seal end
  check(C.neap_checkpoint_reader_open(path, file and about, out), 2)
  local self = lib.handle(Reader, out[0], C.neap_checkpoint_reader_close)
  self.tensors, self.path = {}, path
  local dtype, ndim, dims = ffi.new 'int[1]', ffi.new 'int32_t[1]', ffi.new 'const int64_t *[1]'
  for i = 0, math.huge do
    local name = C.neap_checkpoint_reader_tensor(self.ptr, i, dtype, ndim, dims)
    if name == nil then break end
    local entry = { dtype = NAMES[dtype[0]], dims = {}, count = 1 }
    for axis = 1, ndim[0] do
      entry.dims[axis] = tonumber(dims[0][axis - 1])
      entry.count = entry.count * entry.dims[axis]
    end
    self.tensors[ffi.string(name)] = entry
  end
  return self
end

--- LuaJIT keeps what a value is in the bits of NaNs, and reads doubles as they are: of a file's,
-- only the one NaN that it makes itself may reach Lua.
local function tame(values, count)
  local words = ffi.cast('const uint32_t *', values)
  for i = 0, count - 1 do
    local high = bit.band(words[2 * i + 1], 0x7fffffff)
    if high > 0x7ff00000 or high == 0x7ff00000 and words[2 * i] ~= 0 then values[i] = 0 / 0 end
  end
end

--- A whole tensor as an array in C memory, and its dims; nil if the file has none of the name.
function Reader:read(name, dtype)
  local entry = self.tensors[name]
  if not entry then return nil end
  local values = ffi.new(ARRAYS[dtype], math.max(1, entry.count))
  check(C.neap_checkpoint_reader_read(self.ptr, name, CODES[dtype], 0, entry.count, values), 2)
  if dtype == 'f64' then tame(values, entry.count) end
  return values, entry.dims
end

--- Elements first to first + count - 1 of a tensor, to pointer.
function Reader:read_range(name, dtype, first, count, pointer)
  check(C.neap_checkpoint_reader_read(self.ptr, name, CODES[dtype], first, count, pointer), 2)
end

--- What a tensor has of wanted ranges of arrays, to pointer, which holds all of those. held and
-- wanted: int64_t[2 * arrays], the first element of each array's range and the one after its last.
function Reader:ranges(name, dtype, arrays, held, wanted, pointer)
  check(C.neap_checkpoint_reader_ranges(self.ptr, name, CODES[dtype], arrays, held, wanted,
    pointer), 2)
end

--- Value of a key of the metadata, or nil.
function Reader:note(key)
  local text = C.neap_checkpoint_reader_note(self.ptr, key)
  return text ~= nil and ffi.string(text) or nil
end

--- Compares all checksums.
function Reader:check()
  check(C.neap_checkpoint_reader_check(self.ptr), 2)
end

function Reader:close()
  lib.close(self)
end

-- ---- plain tensors ------------------------------------------------------------------------------

--- A safetensors file that appears when it is finished. tensors: a list of { name, dtype, dims },
-- in the order of the bytes to come; notes: metadata, { key = text }.
function checkpoint.tensors_writer(path, tensors, notes)
  local out = ffi.new 'neap_tensors_writer *[1]'
  check(C.neap_tensors_writer_open(path, out), 2)
  local self = lib.handle(TensorsWriter, out[0], C.neap_tensors_writer_close)
  for _, key in ipairs(lib.sorted_keys(notes)) do
    check(C.neap_tensors_writer_set_metadata(self.ptr, key, notes[key]), 2)
  end
  for _, entry in ipairs(tensors) do
    local list, count = dims_of(entry[3])
    check(C.neap_tensors_writer_declare(self.ptr, entry[1], CODES[entry[2]], count, list), 2)
  end
  check(C.neap_tensors_writer_begin(self.ptr), 2)
  return self
end

function TensorsWriter:append(pointer, bytes)
  check(C.neap_tensors_writer_append(self.ptr, pointer, bytes), 2)
end

--- Bytes of the file.
function TensorsWriter:finish()
  local bytes, seal = ffi.new 'int64_t[1]', ffi.new 'uint32_t[1]'
  check(C.neap_tensors_writer_finish(self.ptr, bytes, seal), 2)
  lib.close(self)
  return tonumber(bytes[0])
end

--- Leaves what was there before.
function TensorsWriter:close()
  lib.close(self)
end

-- ---- texts, folders, locks ----------------------------------------------------------------------

--- Writes the text of a JSON object with a checksum; the file has its old content or this one.
function checkpoint.seal(path, text)
  check(C.neap_sealed_write(path, text, #text), 2)
end

--- Such a text, its checksum compared.
function checkpoint.sealed(path)
  local out, bytes = ffi.new 'neap_sealed *[1]', ffi.new 'int64_t[1]'
  check(C.neap_sealed_read(path, out), 2)
  local text = ffi.string(C.neap_sealed_text(out[0], bytes), bytes[0])
  C.neap_sealed_close(out[0])
  return text
end

--- Makes a folder and those above it.
function checkpoint.make_folder(path)
  check(C.neap_folder_make(path), 2)
end

--- Removes a file, or a folder and its files.
function checkpoint.remove(path)
  check(C.neap_folder_remove(path), 2)
end

--- Holds a lock file until it is closed or the process ends. Raises BUSY while another process
-- does.
function checkpoint.lock(path)
  local file = ffi.new 'int[1]'
  check(C.neap_file_lock(path, file), 2)
  return setmetatable({ file = file[0] }, Lock)
end

function Lock:close()
  C.neap_file_unlock(self.file)
  self.file = -1
end

return checkpoint

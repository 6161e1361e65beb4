-- SPDX-License-Identifier: Apache-2.0

--- Recorded loads: reading traces (safetensors, or CSV, plain or packed) and writing them.
--
--   local t = trace.open 'run.safetensors'
--   t.steps, t.layers, t.ranks, t.experts, t.metadata.seed
--   local load = t:load(step, layer)            -- int64_t[ranks * experts]
--
--   local w = trace.writer('run.safetensors', { layers=, ranks=, experts=, metadata={ seed='1' } })
--   w:append(step, layer, load)                 -- steps from 0, layers in order
--   w:close()

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local trace = {}

local Trace = {}
Trace.__index = Trace

local function read_metadata(ptr)
  local metadata, keys, value = {}, {}, ffi.new 'const char *[1]'
  for i = 0, math.huge do
    local key = C.neap_trace_metadata(ptr, i, value)
    if key == nil then return metadata, keys end
    keys[i + 1] = ffi.string(key)
    metadata[keys[i + 1]] = ffi.string(value[0])
  end
end

--- Reads and checks a whole file. The metadata are strings; metadata_keys has their order.
-- incomplete: the run that wrote it has not finished it, and these are its whole steps. notes: what
-- a user should know of how it was read, or nil. Raises
-- SYSTEM (cannot be read) or FORMAT (damaged: names the file and byte or line).
-- : string -> Trace
function trace.open(path)
  local out, shape = ffi.new 'neap_trace *[1]', ffi.new 'int64_t[4]'
  lib.check(C.neap_trace_open(path, out), 2)
  local self = lib.handle(Trace, out[0], C.neap_trace_close)
  C.neap_trace_shape(self.ptr, shape)
  self.path = path
  self.steps, self.layers = tonumber(shape[0]), tonumber(shape[1])
  self.ranks, self.experts = tonumber(shape[2]), tonumber(shape[3])
  self.metadata, self.metadata_keys = read_metadata(self.ptr)
  self.incomplete = self.metadata.state == 'writing'
  local notes = C.neap_trace_notes(self.ptr)
  self.notes = notes ~= nil and ffi.string(notes) or nil
  return self
end

--- open for commands: says on stderr what a user should know of the file.
-- : string -> Trace
function trace.read(path)
  local self = trace.open(path)
  if self.incomplete then
    io.stderr:write(('neap: %s: was not finished; its %d whole steps are read\n'):format(path,
      self.steps))
  end
  if self.notes then io.stderr:write(('neap: %s: %s\n'):format(path, self.notes)) end
  return self
end

--- Loads of a step and layer, row-major (ranks, experts), in out or in a new buffer.
-- : integer, integer, int64_t[ranks * experts]? -> int64_t[ranks * experts]
function Trace:load(step, layer, out)
  out = out or ffi.new('int64_t[?]', self.ranks * self.experts)
  lib.check(C.neap_trace_load(self.ptr, step, layer, out), 2)
  return out
end

--- Frees the trace.
function Trace:close()
  lib.close(self)
end

local Writer = {}
Writer.__index = Writer

--- A path for the number-th run that writes to path at once: run.safetensors, run-2.safetensors, …
local function own_name(path, number)
  if number == 1 then return path end
  local stem, ending = path:match '^(.*[^/])(%.[^./]*)$'
  return ('%s-%d%s'):format(stem or path, number, ending or '')
end

--- Creates a file; shape = { layers=, ranks=, experts=, metadata= }. Values of the metadata become
-- strings. Raises BUSY while another writer has the file; with several, that many names are tried,
-- and path is the one that was taken.
-- : string, table, integer? -> Writer
function trace.writer(path, shape, several)
  local names = lib.sorted_keys(shape.metadata or {})
  local texts = {} -- keeps the strings alive through the call
  local keys = ffi.new('const char *[?]', #names + 1)
  local values = ffi.new('const char *[?]', #names + 1)
  for i, name in ipairs(names) do
    texts[i] = tostring(shape.metadata[name])
    keys[i - 1], values[i - 1] = name, texts[i]
  end
  local out = ffi.new 'neap_trace_writer *[1]'
  local dims = ffi.new('int64_t[3]', shape.layers, shape.ranks, shape.experts)
  local status
  for number = 1, several or 1 do
    local name = own_name(path, number)
    status = C.neap_trace_writer_open(name, dims, keys, values, #names, out)
    if status == 0 then
      local self = lib.handle(Writer, out[0], C.neap_trace_writer_close)
      self.path = name
      return self
    end
    if status ~= C.NEAP_BUSY then break end
  end
  lib.check(status, 2)
end

--- load: int64_t[ranks * experts]. The file holds every step whose last layer has been appended.
-- : integer, integer, int64_t[ranks * experts]
function Writer:append(step, layer, load)
  lib.check(C.neap_trace_writer_append(self.ptr, step, layer, load), 2)
end

--- Ends the file. One that is not closed so, by a run that failed or was killed, is marked.
function Writer:close()
  local status = C.neap_trace_writer_finish(self.ptr)
  lib.close(self)
  lib.check(status, 2)
end

return trace

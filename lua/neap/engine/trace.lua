--- Recorded loads: reading traces (safetensors, or CSV, plain or gzipped) and writing them.
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
-- Raises SYSTEM (cannot be read) or FORMAT (damaged: names the file and byte or line).
function trace.open(path)
  local out, shape = ffi.new 'neap_trace *[1]', ffi.new 'int64_t[4]'
  lib.check(C.neap_trace_open(path, out), 2)
  local self = lib.handle(Trace, out[0], C.neap_trace_close)
  C.neap_trace_shape(self.ptr, shape)
  self.path = path
  self.steps, self.layers = tonumber(shape[0]), tonumber(shape[1])
  self.ranks, self.experts = tonumber(shape[2]), tonumber(shape[3])
  self.metadata, self.metadata_keys = read_metadata(self.ptr)
  return self
end

--- Loads of a step and layer, row-major (ranks, experts), in out or in a new buffer.
function Trace:load(step, layer, out)
  out = out or ffi.new('int64_t[?]', self.ranks * self.experts)
  lib.check(C.neap_trace_load(self.ptr, step, layer, out), 2)
  return out
end

function Trace:close()
  lib.close(self)
end

local Writer = {}
Writer.__index = Writer

--- Creates a file; shape = { layers=, ranks=, experts=, metadata= }. Values of the metadata become
-- strings.
function trace.writer(path, shape)
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
  lib.check(C.neap_trace_writer_open(path, dims, keys, values, #names, out), 2)
  return lib.handle(Writer, out[0], C.neap_trace_writer_close)
end

--- load: int64_t[ranks * experts]. The file is complete after every step's last layer.
function Writer:append(step, layer, load)
  lib.check(C.neap_trace_writer_append(self.ptr, step, layer, load), 2)
end

function Writer:close()
  lib.close(self)
end

return trace

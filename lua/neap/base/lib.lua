-- SPDX-License-Identifier: Apache-2.0

--- The engine as Lua sees it: declarations, the library, errors and handles.
-- No other file calls ffi.cdef. Nothing calls ffi.load, which crashes where memory ends.

local ffi = require 'ffi'
local launcher = require 'neap.launcher'

local lib = { ffi = ffi, home = launcher.home }

local function read(path)
  local file, why = io.open(path, 'r')
  if not file then
    error(('%s; build the engine first: ./neap --help does it'):format(why), 0)
  end
  local text, reason = file:read '*a'
  file:close()
  if not text then
    error(('%s: %s; build the engine first: ./neap --help does it'):format(path, reason), 0)
  end
  return text
end

ffi.cdef(read(launcher.cdef))
lib.C = ffi.C -- the program is linked with the library
lib.version = ffi.string(lib.C.neap_version())

--- Error values of the engine: code ('LAYOUT'), message, where ('file:line: ' of the caller).
local Error = {}
Error.__index = Error
function Error:__tostring()
  return self.where .. self.message
end
lib.Error = Error

--- Raises an engine error; level as in error().
-- : string, string, integer?
function lib.raise(code, message, level)
  local info = debug.getinfo((level or 1) + 1, 'Sl')
  local where = info and info.currentline > 0
    and ('%s:%d: '):format(info.short_src, info.currentline) or ''
  error(setmetatable({ code = code, message = message, where = where }, Error), 0)
end

--- Raises an error unless status is OK.
-- : integer, integer?
function lib.check(status, level)
  if status ~= 0 then
    lib.raise(ffi.string(lib.C.neap_status_name(status)), ffi.string(lib.C.neap_error_message()),
      (level or 1) + 1)
  end
end

local Closed = {
  __index = function(_, key)
    lib.raise('ARGUMENT', ('use of a closed object (%s)'):format(tostring(key)), 2)
  end,
}

--- Makes a Lua object of class around a C handle; the collector closes it if nobody else does.
-- close must be a local (not collective) C function.
-- : table, pointer, function -> table
function lib.handle(class, ptr, close)
  return setmetatable({ ptr = ffi.gc(ptr, close), close_ptr = close }, class)
end

--- Closes a handle now; later use of the object is a clear error.
-- : table
function lib.close(object)
  local ptr, close = object.ptr, object.close_ptr
  ffi.gc(ptr, nil)
  close(ptr)
  object.ptr, object.close_ptr = nil, nil
  setmetatable(object, Closed)
end

--- Edits that turn a into b: insert, delete, replace or swap neighbours (optimal string alignment).
local function edit_distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

local MOST_HINTED = 100 -- bytes of a name that may be a misspelt one

--- " (did you mean 'x'?)" for a name that is close to an allowed one, else ''.
-- : string, list of string -> string
function lib.hint(name, allowed)
  name = tostring(name)
  if #name > MOST_HINTED then return '' end
  local best, distance = nil, math.max(2, math.min(3, math.floor(#name / 3) + 1))
  for _, candidate in ipairs(allowed) do
    local d = edit_distance(name, candidate)
    if d < distance then
      best, distance = candidate, d
    end
  end
  return best and (" (did you mean '%s'?)"):format(best) or ''
end

--- Order of keys of any type: numbers, then the others by their texts.
local function before(a, b)
  if type(a) == type(b) and (type(a) == 'number' or type(a) == 'string') then return a < b end
  if type(a) == 'number' or type(b) == 'number' then return type(a) == 'number' end
  return tostring(a) < tostring(b)
end

--- Names of a list of the engine: count(), name_of(i) from 0.
-- : function, function -> list of string
function lib.names(count, name_of)
  local names = {}
  for i = 0, count() - 1 do names[i + 1] = ffi.string(name_of(i)) end
  return names
end

--- Raises ARGUMENT unless name is one of names. message: with %s for name, hint and list.
-- : string, list of string, string, integer?
function lib.check_name(name, names, message, level)
  for _, known in ipairs(names) do
    if known == name then return end
  end
  name = tostring(name)
  lib.raise('ARGUMENT', message:format(name, lib.hint(name, names), table.concat(names, ', ')),
    (level or 1) + 1)
end

--- Keys of a table, sorted: pairs() has another order in every process.
-- : table -> list
function lib.sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, before)
  return keys
end

return lib

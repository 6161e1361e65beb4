-- SPDX-License-Identifier: Apache-2.0

--- What the program does with an error: who sees it, and which exit status it gives.

local lib = require 'neap.base.lib'

local errors = {}

errors.DAMAGED = 5 -- exit status where a file is not what it should be
errors.FAULTY = 3  -- exit status where a policy failed

local STATUS = { USAGE = 2, POLICY = errors.FAULTY, FORMAT = errors.DAMAGED, INTERRUPTED = 130 }

errors.HUNG = 6 -- exit status of a run in which an operation did not end

--- Raises an error in how the program was called: one line, exit status 2.
function errors.usage(message, ...)
  error(setmetatable({ code = 'USAGE', message = message:format(...), where = '' }, lib.Error), 0)
end

--- Raises an error that is nobody's bug: one line, exit status 1.
function errors.plain(message, ...)
  error(setmetatable({ code = 'FAILED', message = message:format(...), where = '' }, lib.Error), 0)
end

--- Code of an error of Neap's own ('USAGE'), or nil for any other value.
function errors.code(err)
  return getmetatable(err) == lib.Error and rawget(err, 'code') or nil
end

-- Most bytes of an error's text.
local MOST = 2000

--- Text of an error value whose own __tostring, if any, may fail; nil if there is none.
local function text_of(err)
  if type(err) == 'string' or type(err) == 'number' then return tostring(err) end
  if errors.code(err) then return tostring(rawget(err, 'message')) end
  local own = debug.getmetatable(err)
  if type(err) ~= 'table' or type(own) ~= 'table' or not rawget(own, '__tostring') then return end
  local ok, text = pcall(tostring, err)
  return ok and type(text) == 'string' and text or nil
end

--- What an error value says: any value can be raised, and some say nothing, or much.
function errors.describe(err)
  local text = text_of(err)
  if not text then return ('an error without a text (a %s value)'):format(type(err)) end
  return #text > MOST and text:sub(1, MOST) .. ' …' or text
end

--- What an error value says that a file of the user's raised, with the file's name before it, once.
function errors.in_file(path, err)
  local text = errors.describe(err)
  local place = text:match '^(.-):%d+: '
  local cut = place and place:match '^%.%.%.(.+)$' -- Lua cuts long names in front
  local named = place == path or cut and path:sub(-#cut) == cut
  return named and text or ('%s: %s'):format(path, text)
end

--- What os.exit is while Lua of the user's runs, which would end the process with any status and
-- without a word: an error of one line with the caller's place.
function errors.no_exit(where, instead)
  return function(status)
    local at = debug.getinfo(2, 'Sl')
    local place = at and at.currentline > 0 and ('%s:%d: '):format(at.short_src, at.currentline)
    errors.plain('%sos.exit(%s) in %s: %s', place or '', tostring(status or ''), where, instead)
  end
end

--- Exit status of an error value.
function errors.status(err)
  return STATUS[errors.code(err)] or 1
end

--- 'FILE:LINE: ' of the Lua code that has called the C function that an error comes from, or ''.
local function caller()
  for level = 4, 12 do
    local info = debug.getinfo(level, 'Sl')
    if info and info.currentline > 0 then
      return ('%s:%d: '):format(info.short_src, info.currentline)
    end
  end
  return ''
end

--- On one line what require says of a file that cannot be read, or LuaJIT where memory ends; nil
-- for any other text. How it came to that tells nobody more.
local function outside(text)
  local name, why = text:match "error loading module '([^']*)' from file '[^']*':\n\t([^\n]*)"
  if name then return ("%smodule '%s' cannot be loaded: %s"):format(caller(), name, why) end
  name = text:match "module '([^'\n]*)' not found:\n"
  if name then
    return ("%smodule '%s' is not there, or cannot be opened"):format(caller(), name)
  end
  if text:find('; build the engine first', 1, true) then return text end
  return text:find 'not enough memory' and text:match '^[^\n]*' or nil
end

--- Handler for xpcall: an error with a code is expected and stays as it is, any other is a bug in
-- a script or in Neap, and shows where it happened.
function errors.handler(err)
  if errors.code(err) then return err end
  local text = errors.describe(err)
  return outside(text) or debug.traceback(text, 2)
end

-- Errors that lie outside of any script, so that a place in one would only distract.
local PLACELESS = { USAGE = true, FAILED = true, FORMAT = true, SYSTEM = true, ABSENT = true,
  BUSY = true, INTERRUPTED = true }

--- Text for people.
function errors.text(err)
  local code = errors.code(err)
  if code and not PLACELESS[code] then return rawget(err, 'where') .. errors.describe(err) end
  return errors.describe(err)
end

--- Tells the error on stderr; prefix names a rank, or is ''.
function errors.tell(err, prefix)
  io.stdout:flush()
  io.stderr:write(('neap: %s%s\n'):format(prefix or '', errors.text(err)))
end

--- Tells on stderr what a user should know besides the results; nothing if there is no text.
function errors.note(text)
  if text then io.stderr:write('neap: note: ', text, '\n') end
end

--- Tells a policy's faults on stderr: those that differ in step and layer alone as one.
function errors.tell_faults(messages)
  local order, times = {}, {}
  for _, message in ipairs(messages) do
    local kind = message:gsub('at step %d+, layer %d+', '', 1)
    if not times[kind] then order[#order + 1], times[kind] = { message, kind }, 0 end
    times[kind] = times[kind] + 1
  end
  for _, entry in ipairs(order) do
    local more = times[entry[2]] - 1
    io.stderr:write('neap: ', entry[1], more > 0 and (' (and %d times more)'):format(more) or '',
      '\n')
  end
end

return errors

-- SPDX-License-Identifier: Apache-2.0

--- Cells of a notebook: Lua text that runs in an environment which lasts.
--   * Top-level locals of a cell are kept: later cells see them as globals. (A function keeps the
--     variable that it was made with.)
--   * The value of an expression in the last place, or of a return there, is the cell's result.
--   * '%%file PATH' in the first line writes the rest to a file instead of running it.

local display = require 'neap.notebook.display'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local outputs = require 'neap.base.outputs'
local reference = require 'neap.notebook.reference'

local cell = {}

local Notebook = {}
Notebook.__index = Notebook

-- Names that a cell's text gets appended; no cell has them by chance.
local KEEP, RESULT = '__neap_keep', '__neap_result'

--- Makes variables of the environment of the local variables of the calling function.
local function keep_locals(values)
  for i = 1, math.huge do
    local name, value = debug.getlocal(3, i)
    if not name then return end
    if name:match '^[%a_]' then values[name] = value end
  end
end

--- on_result(values, count): called with what the expression in the last place of a cell gives, if
-- that is anything.
function cell.open(on_result)
  local values = setmetatable({}, { __index = _G })
  local hidden = {
    [KEEP] = function() keep_locals(values) end,
    [RESULT] = function(...)
      if select('#', ...) > 0 then on_result({ ... }, select('#', ...)) end
    end,
  }
  return setmetatable({
    values = values,
    environment = setmetatable({}, {
      __index = function(_, name)
        local value = hidden[name]
        if value == nil then value = values[name] end
        return value
      end,
      __newindex = values,
    }),
  }, Notebook)
end

--- ---- compiling --------------------------------------------------------------------------------

-- A line that begins so may go on with the expression of the line before.
local function continues(text)
  return text:match '^%s*[%({%["\'%-%.:,+*/^%%=<>~]' ~= nil
end

--- The text with its last expression handed over and its locals kept; nil if the last statement is
-- no expression.
local function with_result(text)
  local starts = { 1 }
  for at in text:gmatch '\n()' do starts[#starts + 1] = at end
  for i = #starts, 1, -1 do
    local before, tail = text:sub(1, starts[i] - 1), text:sub(starts[i])
    tail = tail:match '^%s*return%f[^%w_](.*)$' or tail
    if (i == 1 or not continues(tail)) and tail:find '%S' and loadstring('return ' .. tail)
      and loadstring(before) then
      return ('%s do end %s(%s\n) %s()'):format(before, RESULT, tail, KEEP)
    end
  end
end

--- The chunk, or nil and what is wrong with it.
local function compile(text, name)
  local plain, why = loadstring(text, name)
  local extended = with_result(text) or plain and ('%s\n%s()'):format(text, KEEP)
  return extended and loadstring(extended, name) or plain, why
end

--- ---- running ----------------------------------------------------------------------------------

--- Lines of a traceback, from where the error was to the cell's own text.
local function trace_of(message, name)
  local lines, last = {}, 0
  for line in debug.traceback('', 3):gmatch '\n(\t[^\n]*)' do
    local own = line:find('notebook/cell.lua:', 1, true) or line:find("function 'error'", 1, true)
    if not own then lines[#lines + 1] = line end
    if line:find(name .. ':', 1, true) then last = #lines end
  end
  local trace = { message }
  for i = 1, last do trace[i + 1] = lines[i] end
  return trace
end

local function describe(err, name)
  local message = errors.describe(err)
  local kind = errors.code(err) or message:match 'interrupted$' and 'interrupted' or 'error'
  return { name = kind, message = message, trace = trace_of(message, name) }
end

local function write_file(path, text)
  local ok, err = pcall(outputs.write, path, text)
  if not ok then return errors.describe(err) end
  print('written: ' .. path)
  if path:match '%.lua$' then return (select(2, loadfile(path))) end
end

--- Runs a cell; number: its place, for messages. Returns nil, or what went wrong:
-- { name =, message =, trace = lines }.
function Notebook:run(text, number)
  local name = ('cell %d'):format(number)
  local path, rest = text:match '^%%%%file[ \t]+([^\n]-)[ \t]*\n(.*)$'
  local chunk, why
  if path then
    why = write_file(path, rest)
    if not why then return nil end
  else
    chunk, why = compile(text, '=' .. name)
  end
  if not chunk then return { name = 'error', message = why, trace = { why } } end
  jit.off(setfenv(chunk, self.environment), true) -- what is compiled cannot be interrupted
  launcher.catch_interrupts(true)
  local ok, failure = xpcall(chunk, function(err) return describe(err, name) end)
  launcher.catch_interrupts(false)
  return not ok and failure or nil
end

--- ---- completion -------------------------------------------------------------------------------

local function add_names(list, seen, value, prefix)
  if type(value) ~= 'table' then return end
  for key in pairs(value) do
    if type(key) == 'string' and key:sub(1, #prefix) == prefix and not seen[key]
      and key:match '^[%a][%w_]*$' then
      seen[key] = true
      list[#list + 1] = key
    end
  end
  local meta = getmetatable(value)
  for _, key in ipairs(meta and meta.__modules or {}) do -- those that nobody has used yet
    if not seen[key] and key:sub(1, #prefix) == prefix then list[#list + 1] = key end
  end
  if meta and type(meta.__index) == 'table' and meta.__index ~= value then
    add_names(list, seen, meta.__index, prefix)
  end
end

--- The value of a path of names (neap.replay), or nil.
local function value_of(self, path)
  local value = self.values
  for part in path:gmatch '[^%.:]+' do
    local ok, inner = pcall(function() return value[part] end)
    value = ok and inner or nil
  end
  return value
end

--- Names that can stand for the last word of a text, sorted, and the length of what they replace.
-- What hooks are handed (ctx:) is known by its name.
function Notebook:complete(text)
  local path, prefix = text:match '([%a_][%w_%.:]*)[%.:]([%w_]*)$'
  local list, value = {}, self.values
  if path then
    value = value_of(self, path)
  else
    prefix = text:match '[%a_][%w_]*$' or ''
  end
  add_names(list, {}, value, prefix)
  local none = type(value) ~= 'table' and type(value) ~= 'cdata'
  for _, name in ipairs(path and none and reference.members(path) or {}) do
    if name:sub(1, #prefix) == prefix then list[#list + 1] = name end
  end
  table.sort(list)
  return list, #prefix
end

--- What the reference says of the name that a text ends with, or of the function that is being
-- called there; else the value as text; nil if it is nothing.
function Notebook:inspect(text)
  local name = text:match '([%a_][%w_%.:]*)$' or text:match '([%a_][%w_%.:]*)%s*[%({][^%(%){}]*$'
  if not name then return nil end
  local value = value_of(self, name)
  local path, member = name:match '^(.*)[%.:]([%w_]+)$'
  return reference.of(value) or value == nil and path and reference.method(path, member)
    or value ~= nil and display.text(value) or nil
end

--- 'complete', 'incomplete' (more lines are to come) or 'invalid'.
function Notebook.is_complete(_, text)
  if text:match '^%%%%file[ \t]' then return 'complete' end
  if loadstring('return ' .. text) then return 'complete' end
  local chunk, why = loadstring(text)
  if chunk then return 'complete' end
  return why:match "near '<eof>'$" and 'incomplete' or 'invalid'
end

return cell

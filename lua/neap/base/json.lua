-- SPDX-License-Identifier: Apache-2.0

--- JSON documents with keys in a stable order.

local dkjson = require 'dkjson'
local lib = require 'neap.base.lib'
local utf8 = require 'neap.base.utf8'

local json = { null = dkjson.null }

--- What keys are wrong, or nil: those of objects are texts, and lists have none, which dkjson does
-- not ask for.
local function wrong_keys(value)
  if type(value) ~= 'table' then return nil end
  local object = getmetatable(value).__jsontype == 'object'
  for key, item in pairs(value) do
    if object and type(key) ~= 'string' then return 'an object has a key that is no text' end
    if not object and type(key) ~= 'number' then return 'a list has a key' end
    local wrong = wrong_keys(item)
    if wrong then return wrong end
  end
end

--- The value of a JSON text; nil, a position and a message for one that is none, has something
-- after its value, or is nested more deeply than can be read. null is as if it were not there.
function json.decode(text)
  local ok, value, position, why = pcall(dkjson.decode, text)
  if not ok then return nil, 1, 'nested too deeply' end
  if why then return nil, position, why end
  if not text:find('^%s*$', position) then
    return nil, position, ('something after its end, at character %d'):format(position)
  end
  local wrong = wrong_keys(value)
  if wrong then return nil, 1, wrong end
  return value
end

local MOST_DEPTH = 100 -- of tables in tables

--- How many values a table has as a list, or nil if it is an object: a list has keys from 1 on, at
-- least half of them.
local function length(value)
  local count, most = 0, 0
  for key in pairs(value) do
    if type(key) ~= 'number' or key < 1 or key % 1 ~= 0 then return nil end
    count, most = count + 1, math.max(most, key)
  end
  local about = getmetatable(value)
  if count == 0 and about and about.__jsontype == 'object' then return nil end
  return most <= math.max(10, 2 * count) and most or nil
end

--- Keys of an object as texts: those that rank has by it, then the others by name.
local function keys_of(value, rank)
  local keys = {}
  for key, item in pairs(value) do
    if type(key) ~= 'string' and type(key) ~= 'number' then
      error(('JSON has no keys like %s'):format(type(key)), 0)
    end
    keys[#keys + 1] = { name = tostring(key), item = item, rank = rank[key] or math.huge }
  end
  table.sort(keys, function(a, b)
    return a.rank < b.rank or a.rank == b.rank and a.name < b.name
  end)
  return keys
end

local write

local function write_table(out, value, rank, depth)
  if depth > MOST_DEPTH then error('tables are nested too deeply for JSON, or in themselves', 0) end
  local count = length(value)
  out[#out + 1] = count and '[' or '{'
  if count then
    for i = 1, count do
      if i > 1 then out[#out + 1] = ',' end
      write(out, value[i], rank, depth)
    end
  else
    for i, key in ipairs(keys_of(value, rank)) do
      out[#out + 1] = (i > 1 and ',' or '') .. dkjson.quotestring(key.name) .. ':'
      write(out, key.item, rank, depth)
    end
  end
  out[#out + 1] = count and ']' or '}'
end

function write(out, value, rank, depth)
  local kind = type(value)
  if value == nil or value == json.null then
    out[#out + 1] = 'null'
  elseif kind == 'table' then
    write_table(out, value, rank, depth + 1)
  elseif kind == 'number' then
    local finite = value == value and math.abs(value) < math.huge
    out[#out + 1] = finite and ('%.14g'):format(value) or 'null'
  elseif kind == 'string' then
    out[#out + 1] = dkjson.quotestring(value)
  elseif kind == 'boolean' then
    out[#out + 1] = tostring(value)
  else
    error(('a %s cannot be told in JSON'):format(kind), 0)
  end
end

--- value as JSON on one line: keys in the given order, then the others sorted. An empty table is a
-- list unless its metatable says __jsontype = 'object'. Numbers have 14 digits; numbers that JSON
-- lacks become null, bytes that are no UTF-8 U+FFFD. (dkjson takes an object with a number under
-- the key n for a list of so many values.)
function json.encode(value, order)
  local rank, out = {}, {}
  for i, key in ipairs(order or {}) do rank[key] = rank[key] or i end
  write(out, value, rank, 0)
  return utf8.clean(table.concat(out))
end

--- What a command prints with --json, the same shape for all (docs/json.md): { neap = version,
-- command = its name, rows = list }, and what else fields has. order: keys that come first.
function json.results(command, fields, order)
  local document, keys = {}, { 'neap', 'command', unpack(order or {}) }
  for name, value in pairs(fields) do document[name] = value end
  document.neap, document.command = lib.version, command
  return json.encode(document, keys)
end

--- ---- values that come back as they were -------------------------------------------------------

local NUMBER = 'a number' -- the only key of an object that stands for a number that JSON lacks

local function pack_number(value)
  if value ~= value or value == math.huge or value == -math.huge then
    return ('{"%s":"%s"}'):format(NUMBER, value ~= value and 'nan' or value > 0 and 'inf' or '-inf')
  end
  local short = ('%.14g'):format(value)
  return tonumber(short) == value and short or ('%.17g'):format(value)
end

local pack

local function pack_table(value, where, depth)
  local items, keys = {}, {}
  if depth > MOST_DEPTH then
    error(where:sub(1, 40) .. '… is nested too deeply, or in itself', 0)
  end
  for i = 1, #value do items[i] = pack(value[i], ('%s[%d]'):format(where, i), depth) end
  for key in pairs(value) do
    if type(key) == 'string' then
      keys[#keys + 1] = key
    elseif not (type(key) == 'number' and key >= 1 and key <= #value and key % 1 == 0) then
      error(('%s has the key %s; keys are 1 to n, or texts'):format(where, tostring(key)), 0)
    end
  end
  if #keys == 0 then return '[' .. table.concat(items, ',') .. ']' end
  if #items > 0 then error(where .. ' is a list and has texts as keys', 0) end
  table.sort(keys)
  for i, key in ipairs(keys) do
    items[i] = dkjson.quotestring(key) .. ':' .. pack(value[key], where .. '.' .. key, depth)
  end
  return '{' .. table.concat(items, ',') .. '}'
end

function pack(value, where, depth)
  local kind = type(value)
  if kind == 'table' then return pack_table(value, where, depth + 1) end
  if kind == 'number' then return pack_number(value) end
  if kind == 'string' then return dkjson.quotestring(value) end
  if kind == 'boolean' then return tostring(value) end
  error(('%s is a %s; numbers, texts, true, false and tables of them can be kept'):format(where,
    kind), 0)
end

--- A number, text, boolean, or table of such (a list, or with texts as keys) as JSON that unpack
-- makes the same value of, to the last bit. Raises a text that names what cannot be kept.
function json.pack(value)
  return pack(value, 'it', 0)
end

local function restore(value)
  if type(value) ~= 'table' then return value end
  local special = { inf = math.huge, ['-inf'] = -math.huge, nan = 0 / 0 }
  if special[value[NUMBER]] then return special[value[NUMBER]] end
  local out = {}
  for key, item in pairs(value) do out[key] = restore(item) end
  return out
end

--- The value of a packed text; nil and a message for one that is none.
function json.unpack(text)
  local value, _, why = json.decode(text)
  if why then return nil, why end
  return restore(value)
end

return json

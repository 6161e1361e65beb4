--- JSON documents with keys in a stable order.

local dkjson = require 'dkjson'
local lib = require 'neap.base.lib'

local json = { decode = dkjson.decode, null = dkjson.null }

local function collect(value, seen, keys)
  if type(value) ~= 'table' then return end
  for key, item in pairs(value) do
    if type(key) == 'string' and not seen[key] then
      seen[key] = true
      keys[#keys + 1] = key
    end
    collect(item, seen, keys)
  end
end

--- value as JSON on one line: keys in the given order, then the others sorted. An empty table is a
-- list unless its metatable says __jsontype = 'object'. Numbers have 14 digits; numbers that JSON
-- lacks become null.
function json.encode(value, order)
  local seen, sorted, keys = {}, {}, {}
  for _, key in ipairs(order or {}) do
    if not seen[key] then
      seen[key], keys[#keys + 1] = true, key
    end
  end
  collect(value, seen, sorted)
  table.sort(sorted)
  for _, key in ipairs(sorted) do keys[#keys + 1] = key end
  return dkjson.encode(value, { keyorder = keys })
end

--- What a command prints with --json, the same shape for all (docs/json.md): { neap = version,
-- command = its name, rows = list }, and what else fields has. order: keys that come first.
function json.results(command, fields, order)
  local document, keys = {}, { 'neap', 'command', unpack(order or {}) }
  for name, value in pairs(fields) do document[name] = value end
  document.neap, document.command = lib.version, command
  return json.encode(document, keys)
end

return json

--- JSON documents with keys in a stable order.

local dkjson = require 'dkjson'

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
  for i, key in ipairs(order or {}) do
    seen[key], keys[i] = true, key
  end
  collect(value, seen, sorted)
  table.sort(sorted)
  for _, key in ipairs(sorted) do keys[#keys + 1] = key end
  return dkjson.encode(value, { keyorder = keys })
end

return json

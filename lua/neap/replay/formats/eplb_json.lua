-- SPDX-License-Identifier: Apache-2.0

--- Counts as JSON: [layers][experts], as EPLB takes its weight, or [steps][layers][experts]; alone,
-- or in an object under "weight", "load", "logical_count" or "counts".

local json = require 'neap.base.json'
local arrays = require 'neap.replay.formats.arrays'
local lib = require 'neap.base.lib'

local eplb_json = {}

local NAMES = { 'weight', 'load', 'logical_count', 'counts' }

local function fail(path, text, ...)
  lib.raise('FORMAT', ('%s: '):format(path) .. text:format(...), 2)
end

--- The dimensions of lists in lists, whose numbers go to flat in their order.
local function flatten(path, value, flat, level)
  if type(value) == 'number' then
    flat[#flat + 1] = value
    return {}
  end
  if type(value) ~= 'table' or level > 3 then
    fail(path, 'lists [layers][experts] or [steps][layers][experts] of numbers are expected')
  end
  local shape
  for i, item in ipairs(value) do
    local below = flatten(path, item, flat, level + 1)
    shape = shape or below
    if table.concat(below, ',') ~= table.concat(shape, ',') then
      fail(path, 'list %d of a level has another shape than the first', i)
    end
  end
  return { #value, unpack(shape or {}) }
end

local function lists_of(path, document)
  if type(document) == 'table' and #document > 0 then return document end
  for _, name in ipairs(NAMES) do
    if type(document) == 'table' and document[name] then return document[name] end
  end
  fail(path, 'neither lists of counts nor an object with %s', table.concat(NAMES, ', '))
end

--- Adds a file.
function eplb_json.add(counts, paths)
  local path = paths[1]
  local file = assert(io.open(path, 'rb'))
  local text = file:read '*a'
  file:close()
  local document, at, why = json.decode(text)
  if document == nil then fail(path, 'character %d: %s', at, why or 'no JSON') end
  local flat, last = {}, 0
  local shape = flatten(path, lists_of(path, document), flat, 1)
  arrays.add(counts, { name = path, shape = shape, read = function(count)
    local values = {}
    for i = 1, count do values[i - 1] = flat[last + i] end
    last = last + count
    return values
  end }, 'counts')
end

return eplb_json

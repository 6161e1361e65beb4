-- SPDX-License-Identifier: Apache-2.0

--- What a notebook shows of a value: { [MIME type] = text }. Objects say it themselves with a
-- method __display; loads and layouts have pictures; lists of records become tables.
--
--   display.table({ 'policy', 'imbalance' }, rows)   display.html '<b>…</b>'   display.svg '<svg…'

local lib = require 'neap.base.lib'
local chart = require 'neap.draw.chart'
local layout_builder = require 'neap.policy.layout_builder'
local history = require 'neap.policy.history'
local layout_map = require 'neap.draw.layout_map'
local svg = require 'neap.draw.svg'
local text_table = require 'neap.base.text_table'

local ffi = lib.ffi

local display = {}

local DEEPEST, LONGEST = 4, 100

--- ---- plain text -------------------------------------------------------------------------------

local function sorted(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == 'number' or type(a) == 'string') then return a < b end
    return type(a) == 'number' or type(b) ~= 'number' and tostring(a) < tostring(b)
  end)
  return keys
end

local inspect

local function inspect_table(value, depth)
  local items, indent = {}, ('  '):rep(depth + 1)
  for i, key in ipairs(sorted(value)) do
    if i > LONGEST then
      items[#items + 1] = '…'
      break
    end
    local name = type(key) == 'string' and key:match '^[%a_][%w_]*$' and key .. ' = '
      or type(key) == 'number' and key == i and '' or ('[%s] = '):format(inspect(key, depth + 1))
    items[#items + 1] = name .. inspect(value[key], depth + 1)
  end
  local line = table.concat(items, ', ')
  if #items == 0 then return '{}' end
  if #line < 80 and not line:find '\n' then return ('{ %s }'):format(line) end
  return ('{\n%s%s\n%s}'):format(indent, table.concat(items, ',\n' .. indent), ('  '):rep(depth))
end

function inspect(value, depth)
  if type(value) == 'string' then return depth > 0 and ('%q'):format(value) or value end
  local meta = getmetatable(value)
  if type(value) ~= 'table' or meta and meta.__tostring or depth >= DEEPEST then
    return tostring(value)
  end
  return inspect_table(value, depth)
end

--- A value as text; tables with their content.
-- : any -> string
function display.text(value)
  return inspect(value, 0)
end

--- ---- tables -----------------------------------------------------------------------------------

local Table = {}
Table.__index = Table

--- heading: titles; rows: lists of as many values.
-- : list of string, list of list -> Table
function display.table(heading, rows)
  return setmetatable({ heading = heading, rows = rows }, Table)
end

function Table:__tostring()
  return text_table.format(self.heading, self.rows)
end

local function cell_html(value, tag)
  local text = value == nil and '-' or tostring(value)
  local right = tonumber((text:gsub('[%%,]', ''))) and ' style="text-align:right"' or ''
  return ('<%s%s>%s</%s>'):format(tag, right, svg.escape(text), tag)
end

local function row_html(row, columns, tag)
  local cells = {}
  for i = 1, columns do cells[i] = cell_html(row[i], tag) end
  return ('<tr>%s</tr>'):format(table.concat(cells))
end

--- The table as HTML.
-- : -> string
function Table:html()
  local rows = {}
  for i, row in ipairs(self.rows) do rows[i] = row_html(row, #self.heading, 'td') end
  return ('<table><thead>%s</thead><tbody>%s</tbody></table>'):format(
    row_html(self.heading, #self.heading, 'th'), table.concat(rows))
end

function Table:__display()
  return { ['text/plain'] = tostring(self), ['text/html'] = self:html() }
end

--- Columns of a list of records whose values are no tables; nil if it is something else.
local function record_columns(list)
  if #list == 0 or type(list[1]) ~= 'table' or getmetatable(list) then return nil end
  local columns = {}
  for _, key in ipairs(sorted(list[1])) do
    if type(key) ~= 'string' or type(list[1][key]) == 'table' then return nil end
    columns[#columns + 1] = key
  end
  return #columns > 0 and columns or nil
end

local function from_records(list, columns)
  local rows = {}
  for i, record in ipairs(list) do
    if type(record) ~= 'table' then return nil end
    rows[i] = {}
    for j, column in ipairs(columns) do
      local value = record[column]
      rows[i][j] = type(value) == 'number' and value % 1 ~= 0 and ('%.4g'):format(value) or value
    end
  end
  return display.table(columns, rows)
end

--- ---- rich values ------------------------------------------------------------------------------

--- A value that shows as the given HTML, or SVG.
local Rich = {}
Rich.__index = Rich

function Rich:__display()
  return { [self.mime] = self.data, ['text/plain'] = self.plain }
end

--- What a notebook shows as HTML, and elsewhere as the plain text.
-- : string, string? -> Rich
function display.html(html, plain)
  return setmetatable({ mime = 'text/html', data = html, plain = plain or 'HTML' }, Rich)
end

--- What a notebook shows as a picture, and elsewhere as the plain text.
-- : string, string? -> Rich
function display.svg(text, plain)
  return setmetatable({ mime = 'image/svg+xml', data = text, plain = plain or 'SVG' }, Rich)
end

local function show_layout(topology, experts, text)
  return { ['text/plain'] = text,
    ['text/html'] = layout_map.html(layout_map.draw(topology, experts)) }
end

local function show_load(load)
  local picture = chart.heat { title = 'Tokens by source rank and expert', rows = load.ranks,
    columns = load.experts, x = 'expert', y = 'rank', unit = 'tokens',
    at = function(rank, expert) return load:at(rank, expert) end }
  return { ['text/plain'] = ('load of %d ranks and %d experts, %.0f tokens'):format(load.ranks,
    load.experts, load:total()), ['image/svg+xml'] = tostring(picture) }
end

local function full(layout)
  for rank = 0, layout.shape.ranks - 1 do
    if layout:free(rank) > 0 then return false end
  end
  return true
end

local function bundle_of_table(value)
  local meta = getmetatable(value)
  if meta and meta.__display then return value:__display() end
  if history.is_load(value) then return show_load(value) end
  if layout_builder.is_builder(value) and full(value) then
    return show_layout(value.shape, value.expert_of, 'a layout')
  end
  if meta and rawget(value, 'topology') and ffi.istype('neap_layout *', value.ptr) then
    return show_layout(value.topology, value:array(), tostring(value))
  end
  local columns = record_columns(value)
  local records = columns and from_records(value, columns)
  return records and records:__display() or { ['text/plain'] = display.text(value) }
end

--- What there is to show of a value.
-- : any -> table
function display.bundle(value)
  if type(value) == 'table' then return bundle_of_table(value) end
  return { ['text/plain'] = display.text(value) }
end

return display

-- SPDX-License-Identifier: Apache-2.0

--- Grids: every combination of some values of some parameters.
--
--   grid.words { 'policies=static,laer', 'seed=0..4', 'ffn={64,32},{128}' }
--     -> { policies = { 'static', 'laer' }, seed = { 0, 1, 2, 3, 4 },
--          ffn = { { 64, 32 }, { 128 } } }
--   grid.cells { policies = …, seed = … }
--     -> { { { 'seed', 0 }, { 'policies', 'static' } }, … }

local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'
local new_table = require 'table.new'

local grid = {}

local MOST_CELLS = 100000

-- Seeds vary slowest and policies fastest, so that pairs to compare are complete early.
local RANK = { seed = 1, policy = 3, policies = 3 }

--- A number, if that is what the item is and nothing of it is lost: 007 and 0x10 may be names, and
-- of 9007199254740993 the last digit would go.
local function number_or_text(item)
  local number = tonumber(item)
  local decimal = item:match '^%-?%d' and not item:match '^%-?0%d' and not item:match '[xX]'
  return number and decimal and math.abs(number) < 2 ^ 53 and number or item
end

--- The values that one item of a word stands for: a number, a range, a text.
local function expand(word, item, values)
  local first, last, step = item:match '^(-?%d+)%.%.(-?%d+)$'
  if not first then first, last, step = item:match '^(-?%d+)%.%.(-?%d+):(%d+)$' end
  if not first then
    values[#values + 1] = number_or_text(item)
    return
  end
  first, last, step = tonumber(first), tonumber(last), tonumber(step or 1)
  if last < first or step < 1 then
    errors.usage("'%s': the range %s is empty; it must rise, as in 0..4 or 0..100:20", word, item)
  end
  if (last - first) / step >= MOST_CELLS - #values then
    errors.usage("'%s': with the range %s there are more than %d values", word, item, MOST_CELLS)
  end
  for value = first, last, step do values[#values + 1] = value end
end

local function parse_list(text)
  local list = {}
  for item in text:gmatch '[^,]+' do list[#list + 1] = number_or_text(item) end
  return list
end

--- Values of 'a,b,0..3,{1,2}'; items are those of arguments.items.
local function parse_values(word, text)
  local values, position = {}, 1
  while position <= #text do
    local list, after = text:match('^{([^}]*)},?()', position)
    if list then
      values[#values + 1], position = parse_list(list), after
    elseif text:find('^{', position) then
      errors.usage("'%s': a list begins with { and does not end; lists are {1,2}", word)
    else
      local brace = text:find('{', position, true)
      local part = text:sub(position, (brace or #text + 1) - 1)
      for _, item in ipairs(arguments.items(part)) do expand(word, item, values) end
      position = position + #part
    end
  end
  if #values == 0 then values[1] = '' end
  return values
end

--- Axes of words NAME=VALUES. Raises USAGE.
function grid.words(words)
  local axes = {}
  for _, word in ipairs(words) do
    local name, text = word:match '^%-*(%a[%w_-]*)=(.*)$'
    if not name then
      errors.usage("'%s' is no axis; the form is NAME=VALUE,VALUE,… (seed=0..4)", word)
    end
    name = name:gsub('-', '_')
    if axes[name] then errors.usage("'%s': %s is given twice", word, name) end
    axes[name] = parse_values(word, text)
  end
  return axes
end

--- Names of axes in the order in which they vary, slowest first.
function grid.order(axes)
  local names = lib.sorted_keys(axes)
  table.sort(names, function(a, b)
    local first, second = RANK[a] or 2, RANK[b] or 2
    return first < second or first == second and a < b
  end)
  return names
end

--- Of every axis, slowest first, its pairs { name, value }; and how many combinations there are.
local function pairs_of(axes)
  local columns, count = {}, 1
  for i, name in ipairs(grid.order(axes)) do
    count = count * #axes[name]
    if count > MOST_CELLS then errors.usage('the grid has more than %d runs', MOST_CELLS) end
    columns[i] = {}
    for k, value in ipairs(axes[name]) do columns[i][k] = { name, value } end
  end
  return columns, count
end

--- All combinations: lists of pairs { name, value }, which they share.
function grid.cells(axes)
  local columns, count = pairs_of(axes)
  local cells = new_table(count, 0)
  for i = 1, count do
    local cell, rest = new_table(#columns, 0), i - 1
    for at = #columns, 1, -1 do
      local column = columns[at]
      cell[at] = column[rest % #column + 1]
      rest = math.floor(rest / #column)
    end
    cells[i] = cell
  end
  return cells
end

return grid

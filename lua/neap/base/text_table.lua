-- SPDX-License-Identifier: Apache-2.0

--- Text tables: numbers to the right, text to the left, a line under the heading.

local text_table = {}

--- Characters of a UTF-8 string.
local function width(text)
  return select(2, text:gsub('[^\128-\191]', ''))
end

local function is_number(text)
  return text:match '^[-+]?[%d.,]+%s*[%%xKMGk]?B?$' ~= nil or text == '-' or text == ''
end

--- Widths of the columns, and which hold numbers only.
local function measure(heading, rows)
  local widths, numeric = {}, {}
  for column, title in ipairs(heading) do
    widths[column], numeric[column] = width(title), #rows > 0
    for _, row in ipairs(rows) do
      widths[column] = math.max(widths[column], width(row[column]))
      numeric[column] = numeric[column] and is_number(row[column])
    end
  end
  return widths, numeric
end

local function format_row(row, widths, numeric)
  local cells = {}
  for column, text in ipairs(row) do
    local pad = (' '):rep(widths[column] - width(text))
    cells[column] = numeric[column] and pad .. text or text .. pad
  end
  return (table.concat(cells, '  '):gsub('%s+$', ''))
end

--- heading: list of titles; rows: lists of as many values (nil and false: '-'). Returns the lines
-- joined by newlines, without one at the end.
function text_table.format(heading, rows)
  local texts = {}
  for i, row in ipairs(rows) do
    texts[i] = {}
    for column = 1, #heading do
      local value = row[column]
      texts[i][column] = (value == nil or value == false) and '-' or tostring(value)
    end
  end
  local widths, numeric = measure(heading, texts)
  local rule = {}
  for column = 1, #heading do rule[column] = ('-'):rep(widths[column]) end
  local lines = { format_row(heading, widths, numeric), table.concat(rule, '  ') }
  for _, row in ipairs(texts) do lines[#lines + 1] = format_row(row, widths, numeric) end
  return table.concat(lines, '\n')
end

--- 1234567 as '1,234,567'.
function text_table.thousands(number)
  local text = ('%.0f'):format(number)
  local sign, digits = text:match '^(-?)(%d+)$'
  if not digits then return text end
  digits = digits:reverse():gsub('(%d%d%d)', '%1,'):reverse():gsub('^,', '')
  return sign .. digits
end

--- Seconds as '0.4 s', '12.3 s', '2 min 05 s', '3 h 20 min', '2 d 04 h'.
function text_table.duration(seconds)
  if seconds < 59.95 then return ('%.1f s'):format(seconds) end
  local whole = math.floor(seconds + 0.5)
  if whole < 3600 then return ('%d min %02d s'):format(math.floor(whole / 60), whole % 60) end
  local minutes = math.floor(whole / 60 + 0.5)
  if minutes < 1440 then return ('%d h %02d min'):format(math.floor(minutes / 60), minutes % 60) end
  local hours = math.floor(minutes / 60 + 0.5)
  return ('%d d %02d h'):format(math.floor(hours / 24), hours % 24)
end

--- A time, seconds since 1970, as '2026-11-30 22:41:00' here.
function text_table.date(seconds)
  return os.date('%Y-%m-%d %H:%M:%S', math.floor(seconds))
end

--- Bytes as '1.5 MB' (powers of 1000).
function text_table.bytes(number)
  local units = { 'B', 'kB', 'MB', 'GB', 'TB' }
  local unit = 1
  while math.abs(number) >= 999.5 and unit < #units do
    number, unit = number / 1000, unit + 1
  end
  return (unit == 1 and '%.0f %s' or '%.3g %s'):format(number, units[unit])
end

return text_table

-- SPDX-License-Identifier: Apache-2.0

--- Charts as drawings (svg.lua): curves over steps, bars, heat maps, layouts, timelines. All have a
-- title, axes with units, and sizes that can be read on a phone.

local svg = require 'neap.draw.svg'

local chart = {}

local WIDTH, HEIGHT = 360, 240
local LEFT, RIGHT, TOP, BOTTOM = 48, 12, 30, 34
local LEGEND_ROW = 15
local GRID = { stroke = '#dde1e6', width = 1 }
local AXIS = { stroke = '#8a9099', width = 1 }
local SMALL = '#5b626b'
local MOST_POINTS = 300

--- Round numbers between low and high, about count of them, and their step.
-- : number, number, integer -> list of number, number
function chart.ticks(low, high, count)
  local span = high - low
  if span <= 0 then return { low }, 1 end
  local raw = span / (count or 4)
  local size = 10 ^ math.floor(math.log10(raw))
  local step = size * 10
  for _, factor in ipairs { 1, 2, 5 } do
    if size * factor >= raw * 0.999 then
      step = size * factor
      break
    end
  end
  local list = {}
  for i = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do
    list[#list + 1] = i * step + 0 -- not -0
  end
  return list, step
end

--- A number as short as its neighbours on the axis allow.
-- : number, number -> string
function chart.label(value, step)
  if value == 0 then return '0' end
  if math.abs(value) >= 1e6 then return ('%gM'):format(value / 1e6) end
  if math.abs(value) >= 1e4 then return ('%gk'):format(value / 1e3) end
  local digits = math.max(0, -math.floor(math.log10(step or 1) + 1e-9))
  return ('%.' .. ('%d'):format(digits) .. 'f'):format(value)
end

--- Width of a text in a font of 11 units, roughly.
local function text_width(text)
  return 6.1 * select(2, text:gsub('[^\128-\191]', ''))
end

local function frame(options, extra)
  local d = svg.open { width = options.width or WIDTH,
    height = (options.height or HEIGHT) + (extra or 0), title = options.title }
  d:text(8, 17, options.title, { weight = '600', size = 12.5 })
  return d
end

--- Axes with grid: returns functions from values to positions. low, high: the range of y.
local function axes(d, options, range)
  local left, right = LEFT, d.width - RIGHT
  local top, bottom = TOP + (options.unit and 12 or 0), (options.height or HEIGHT) - BOTTOM
  local function x(value)
    return left + (right - left) * (value - range.first) / math.max(1e-12, range.last - range.first)
  end
  local function y(value)
    return bottom - (bottom - top) * (value - range.low) / (range.high - range.low)
  end
  if options.unit then d:text(8, 32, options.unit, { size = 10, fill = SMALL }) end
  local marks, step = chart.ticks(range.low, range.high, 5)
  for _, value in ipairs(marks) do
    d:line(left, y(value), right, y(value), GRID)
    d:text(left - 5, y(value) + 3.5, chart.label(value, step), { anchor = 'end', fill = SMALL,
      size = 10 })
  end
  d:line(left, bottom, right, bottom, AXIS)
  return x, y, { left = left, right = right, top = top, bottom = bottom }
end

local function x_axis(d, box, x, range, label)
  local marks, step = chart.ticks(range.first, range.last, 5)
  for _, value in ipairs(marks) do
    d:line(x(value), box.bottom, x(value), box.bottom + 4, AXIS)
    d:text(x(value), box.bottom + 15, chart.label(value, step), { anchor = 'middle', size = 10,
      fill = SMALL })
  end
  d:text((box.left + box.right) / 2, box.bottom + 28, label, { anchor = 'middle', size = 10,
    fill = SMALL })
end

--- ---- curves -----------------------------------------------------------------------------------

--- Values as points, means of neighbours where there are too many: flat list of step, value.
local function points_of(series)
  local values, first, out = series.values, series.first or 0, {}
  local stride = math.ceil(#values / MOST_POINTS)
  for i = 1, #values, stride do
    local last, sum = math.min(#values, i + stride - 1), 0
    for j = i, last do sum = sum + values[j] end
    out[#out + 1] = first + (i + last) / 2 - 1
    out[#out + 1] = sum / (last - i + 1)
  end
  return out
end

local function range_of(lines, options)
  local range = { first = math.huge, last = -math.huge, low = options.low or math.huge,
    high = options.high or -math.huge }
  for _, points in ipairs(lines) do
    for i = 1, #points, 2 do
      range.first, range.last = math.min(range.first, points[i]), math.max(range.last, points[i])
      range.low, range.high = math.min(range.low, points[i + 1]),
        math.max(range.high, points[i + 1])
    end
  end
  if range.first > range.last then range.first, range.last, range.low, range.high = 0, 1, 0, 1 end
  if range.high - range.low < 1e-9 then
    range.high = range.low + math.max(1e-3, range.low * 0.01)
  end
  local margin = 0.06 * (range.high - range.low)
  if not options.low then range.low = range.low - margin end
  if not options.high then range.high = range.high + margin end
  return range
end

--- Places of the legend's entries: list of { x, row }, and how many rows.
local function legend_places(names, width)
  local x, row, positions = 8, 0, {}
  for i, name in ipairs(names) do
    local needed = 30 + text_width(name) + 12
    if x > 8 and x + needed > width then x, row = 8, row + 1 end
    positions[i] = { x, row }
    x = x + needed
  end
  return positions, #names > 0 and row + 1 or 0
end

local function stroke_of(i)
  return { stroke = svg.colours[(i - 1) % #svg.colours + 1],
    dash = svg.dashes[(i - 1) % #svg.dashes + 1], width = 1.8, ['stroke-linejoin'] = 'round' }
end

--- Options: title; unit (of y); series: list of { name =, values = list, first = (0) step of the
-- first value, colour = (its place) which colour it has }; x ('step'); low, high: fixed ends of y.
-- : table -> string
function chart.curves(options)
  local lines, names = {}, {}
  for i, series in ipairs(options.series) do
    lines[i], names[i] = points_of(series), svg.short(series.name)
  end
  local positions, rows = legend_places(names, options.width or WIDTH)
  local d, range = frame(options, rows * LEGEND_ROW + 2), range_of(lines, options)
  local x, y, box = axes(d, options, range)
  x_axis(d, box, x, range, options.x or 'step')
  for i, points in ipairs(lines) do
    local style = stroke_of(options.series[i].colour or i)
    local places_on_page = {}
    for j = 1, #points, 2 do
      places_on_page[j], places_on_page[j + 1] = x(points[j]), y(points[j + 1])
    end
    d:polyline(places_on_page, style)
    local at = (options.height or HEIGHT) + positions[i][2] * LEGEND_ROW + 8
    d:line(positions[i][1], at, positions[i][1] + 24, at, style)
    d:text(positions[i][1] + 29, at + 4, names[i])
  end
  return d
end

--- ---- bars -------------------------------------------------------------------------------------

local EQUAL = 0.005 -- more than the mean by this share: a bar that stands out

--- Options: title, unit, values (by rank from 0, as a list), node_of (function of the rank), high
-- (end of y, to compare charts), x ('rank').
-- : table -> string
function chart.bars(options)
  local values, most, sum, at = options.values, 0, 0, 1
  for i, value in ipairs(values) do
    sum = sum + value
    if value > most then most, at = value, i end
  end
  local d = frame(options)
  local range = { first = 0, last = #values, low = 0,
    high = math.max(options.high or 0, most, 1e-9) * 1.08 }
  local x, y, box = axes(d, options, range)
  local width = (box.right - box.left) / #values
  if most <= (1 + EQUAL) * sum / math.max(1, #values) then at = nil end
  local gap = width > 4 and math.min(3, width * 0.18) or 0
  for i, value in ipairs(values) do
    d:rect(x(i - 1) + gap / 2, y(value), width - gap, box.bottom - y(value),
      { fill = svg.colours[i == at and 2 or 1] }, ('rank %d: %.0f'):format(i - 1, value))
    if options.node_of and i > 1 and options.node_of(i - 1) ~= options.node_of(i - 2) then
      d:line(x(i - 1), box.top, x(i - 1), box.bottom, { stroke = '#8a9099', dash = '2 3' })
    end
  end
  local mean = y(sum / math.max(1, #values))
  d:line(box.left, mean, box.right, mean, { stroke = '#000', dash = '5 3' })
  d:text(box.right, mean - 4, 'mean', { anchor = 'end', size = 10, stroke = '#fff', width = 3,
    ['paint-order'] = 'stroke' })
  local every = math.max(1, math.ceil(#values / 8))
  for i = 0, #values - 1, every do
    d:text(x(i + 0.5), box.bottom + 14, i, { anchor = 'middle', size = 10, fill = SMALL })
  end
  d:text((box.left + box.right) / 2, box.bottom + 28, options.x or 'rank', { anchor = 'middle',
    size = 10, fill = SMALL })
  return d
end

--- ---- heat maps --------------------------------------------------------------------------------

local LEVELS = 32

--- Cells of one shade become one path. value(row, column) in [0, 1].
local function paint(d, value, rows, columns, box)
  local width, height = (box.right - box.left) / columns, (box.bottom - box.top) / rows
  local paths = {}
  for level = 0, LEVELS do paths[level] = {} end
  for row = 0, rows - 1 do
    for column = 0, columns - 1 do
      local level = math.floor(math.max(0, math.min(1, value(row, column))) * LEVELS + 0.5)
      local path = paths[level]
      path[#path + 1] = ('M%.1f %.1fh%.2fv%.2fh-%.2fz'):format(box.left + column * width,
        box.top + row * height, width + 0.15, height + 0.15, width + 0.15)
    end
  end
  for level = 0, LEVELS do
    if #paths[level] > 0 then
      d:path(table.concat(paths[level]), { fill = svg.shade(level / LEVELS) })
    end
  end
end

local function scale_bar(d, x, y, width, low, high, unit)
  for i = 0, 31 do
    d:rect(x + width * i / 32, y, width / 32 + 0.3, 8, { fill = svg.shade(i / 31) })
  end
  d:rect(x, y, width, 8, { fill = 'none', stroke = '#8a9099', width = 0.6 })
  d:text(x, y + 20, low, { size = 10, fill = SMALL })
  d:text(x + width, y + 20, high, { size = 10, anchor = 'end', fill = SMALL })
  d:text(x + width / 2, y + 20, unit, { size = 10, anchor = 'middle', fill = SMALL })
end

local function marks_on_rows(d, box, rows, every)
  for row = 0, rows - 1, every do
    local y = box.top + (row + 0.5) * (box.bottom - box.top) / rows
    d:text(box.left - 5, y + 3.5, row, { anchor = 'end', size = 10, fill = SMALL })
  end
end

--- Options: title, rows, columns, at(row, column) -> value, x, y (what they are), unit (of values),
-- first (what the first column is called), high (value of the darkest shade; default: the largest).
-- More than 240 columns are joined, by their means.
-- : table -> string
function chart.heat(options)
  local rows, joined = options.rows, math.ceil(options.columns / 240)
  local columns = math.ceil(options.columns / joined)
  local values, most = {}, 1e-12
  for row = 0, rows - 1 do
    for column = 0, columns - 1 do
      local first, last = column * joined, math.min(options.columns, (column + 1) * joined) - 1
      local sum = 0
      for i = first, last do sum = sum + options.at(row, i) end
      local value = sum / (last - first + 1)
      values[row * columns + column], most = value, math.max(most, value)
    end
  end
  local high = options.high or most
  local height = math.max(150, math.min(420, rows * 13))
  local top = TOP + 10
  local d = svg.open { width = options.width or 720, height = height + top + 66,
    title = options.title }
  d:text(8, 17, options.title, { weight = '600', size = 12.5 })
  local box = { left = LEFT, right = d.width - RIGHT, top = top, bottom = top + height }
  paint(d, function(row, column) return values[row * columns + column] / high end, rows, columns,
    box)
  marks_on_rows(d, box, rows, math.max(1, math.ceil(rows * 13 / height)))
  local first = options.first or 0
  x_axis(d, box, function(value)
    return box.left + (value - first + 0.5) * (box.right - box.left) / options.columns
  end, { first = first, last = first + options.columns - 1 }, options.x)
  d:text(8, TOP + 2, options.y, { size = 10, fill = SMALL })
  scale_bar(d, box.left, d.height - 26, math.min(300, box.right - box.left), '0',
    chart.label(high, high / 20), options.unit)
  return d
end

return chart

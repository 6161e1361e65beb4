-- SPDX-License-Identifier: Apache-2.0

--- Differences with their intervals as a drawing: a row per name, a dot for the mean, a line for
-- the interval, and a dashed one where there is no difference. Only what differs beyond doubt has a
-- colour.
--
--   intervals.draw { title = 'imbalance', unit = 'difference', show = tostring, rows = { {
--     name = 'laer', mean = -0.2, low = -0.3, high = -0.1, verdict = 'better' }, … } }

local chart = require 'neap.draw.chart'
local svg = require 'neap.draw.svg'

local intervals = {}

local WIDTH, ROW, TOP, BOTTOM, RIGHT = 360, 26, 40, 40, 14
local NAMES = 118 -- width of the column of names
local SMALL, GREY = '#5b626b', '#8a9099'
local NOISE = 1e-9 -- differences that are none, but for rounding

--- Ends of the axis: all intervals and 0, with room on both sides.
local function ends_of(rows)
  local low, high = 0, 0
  for _, row in ipairs(rows) do low, high = math.min(low, row.low), math.max(high, row.high) end
  local span = high - low
  if span < NOISE then return -1, 1 end
  return low - 0.06 * span, high + 0.06 * span
end

local COLOURS = { better = svg.colours[1], worse = svg.colours[2] }

local function draw_row(d, x, y, row, options)
  local colour = COLOURS[row.verdict] or GREY
  d:text(NAMES - 8, y + 4, svg.short(row.name, 18), { anchor = 'end' })
  d:line(x(row.low), y, x(row.high), y, { stroke = colour, width = 2.4 })
  for _, at in ipairs { row.low, row.high } do
    d:line(x(at), y - 5, x(at), y + 5, { stroke = colour, width = 1.6 })
  end
  d:rect(x(row.mean) - 4, y - 4, 8, 8, { fill = colour, rx = 4 },
    ('%s: %s, 95 %% interval %s to %s'):format(row.name, options.show(row.mean),
      options.show(row.low), options.show(row.high)))
end

--- Options: title, unit (of the axis), show (a value as text), rows (of name, mean, low, high,
-- verdict: 'better', 'worse' or anything else; at least one).
function intervals.draw(options)
  local rows, height = options.rows, TOP + ROW * #options.rows + BOTTOM
  local d = svg.open { width = WIDTH, height = height, title = options.title }
  local low, high = ends_of(rows)
  local bottom, right = height - BOTTOM, WIDTH - RIGHT
  local function x(value) return NAMES + (right - NAMES) * (value - low) / (high - low) end
  d:text(8, 17, options.title, { weight = '600', size = 12.5 })
  local marks, step = chart.ticks(low, high, 3)
  for _, value in ipairs(marks) do
    d:line(x(value), TOP - 8, x(value), bottom, { stroke = '#dde1e6' })
    d:text(x(value), bottom + 14, chart.label(value, step), { anchor = 'middle', size = 10,
      fill = SMALL })
  end
  d:line(x(0), TOP - 8, x(0), bottom, { stroke = '#000', dash = '4 3' })
  d:text((NAMES + right) / 2, bottom + 29, options.unit, { anchor = 'middle', size = 10,
    fill = SMALL })
  for i, row in ipairs(rows) do draw_row(d, x, TOP + ROW * (i - 0.5), row, options) end
  return d
end

return intervals

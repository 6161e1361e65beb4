-- SPDX-License-Identifier: Apache-2.0

--- A map of which of a few is best, over two sizes: cells in the winner's colour, with its lead.

local svg = require 'neap.draw.svg'

local winners = {}

local CELL, HEIGHT, LEFT, TOP, FOOT = 96, 46, 96, 56, 64

local function head(d, o, width)
  d:text(LEFT, 20, o.title, { size = 14, weight = 'bold' })
  local x = LEFT
  for i, series in ipairs(o.series) do
    d:rect(x, 32, 12, 12, { fill = svg.colours[i] })
    d:text(x + 17, 42, series.title, { size = 12 })
    x = x + (width - LEFT) / #o.series
  end
end

--- Text in a cell is as dark or light as its ground asks for.
local function cell(d, x, y, colour, one, tip)
  d:rect(x, y, CELL - 2, HEIGHT - 2, { fill = colour or '#eeeeee',
    ['fill-opacity'] = one.faint and 0.3 or nil }, tip)
  local ink = colour and not one.faint and '#fff' or '#444'
  d:text(x + CELL / 2 - 1, y + 19, one.text, { anchor = 'middle', size = 12, fill = ink,
    weight = 'bold' })
  d:text(x + CELL / 2 - 1, y + 35, one.detail or '', { anchor = 'middle', size = 11, fill = ink })
end

--- o: title, series = list of { name =, title = }, columns and rows (lists of numbers, as they are
-- shown), column_title, row_title, note, and cell(column, row), which gives { winner = name or nil,
-- text =, detail =, tip =, faint = (true: hardly a winner) }. Returns a drawing.
function winners.draw(o)
  local width, height = LEFT + CELL * #o.columns + 16, TOP + HEIGHT * #o.rows + FOOT
  width = math.max(width, 560)
  local d, colour_of = svg.open { width = width, height = height, title = o.title }, {}
  for i, series in ipairs(o.series) do colour_of[series.name] = svg.colours[i] end
  head(d, o, width)
  for j, row in ipairs(o.rows) do
    local y = TOP + HEIGHT * (j - 1)
    d:text(LEFT - 8, y + HEIGHT / 2 + 4, row, { anchor = 'end', size = 12 })
    for i, column in ipairs(o.columns) do
      local one = o.cell(column, row)
      cell(d, LEFT + CELL * (i - 1), y, colour_of[one.winner], one, one.tip)
    end
  end
  local below = TOP + HEIGHT * #o.rows
  for i, column in ipairs(o.columns) do
    d:text(LEFT + CELL * (i - 0.5), below + 16, column, { anchor = 'middle', size = 12 })
  end
  d:text(LEFT + CELL * #o.columns / 2, below + 34, o.column_title, { anchor = 'middle', size = 12 })
  d:text(8, TOP - 4, o.row_title, { size = 12 })
  d:text(LEFT, below + 54, o.note, { size = 11, fill = '#555' })
  return d
end

return winners

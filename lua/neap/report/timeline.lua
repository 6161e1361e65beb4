-- SPDX-License-Identifier: Apache-2.0

--- Timelines of a step in a report: reads what neap run --timeline and neap simulate --timeline
-- have written (trace events of Chrome), and draws the four streams of every rank.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local svg = require 'neap.draw.svg'

local spans = {}

local MOST_RANKS = 8
local WIDTH, LEFT, TOP, LEGEND, LEGEND_ROW = 1000, 76, 30, 46, 16
local TALL, THIN, GAP = 14, 5, 7   -- compute; the exchanges below it; between ranks
local STREAMS = { 'compute', 'tokens', 'unshard', 'reduce', 'late' }

-- Colours by what a span is; its name decides, else its stream.
local KINDS = {
  { 'experts', '#0072B2', { expert = true, ffn = true } },
  { 'attention', '#009E73', { attention = true } },
  { 'routing', '#E69F00', { route = true, finish = true, host = true } },
  { 'waiting', '#d5d9de', { wait = true } },
  { 'tokens', '#56B4E9', { tokens = true, dispatch = true, combine = true, counts = true } },
  { 'unshard', '#CC79A7', { unshard = true } },
  { 'late', '#F0E442', { late = true } },
  { 'reduce', '#D55E00', { reduce = true } },
  { 'other', '#7a828c', { compute = true } },
}

local function kind_of(event)
  for _, name in ipairs { event.name, event.cat } do
    for _, kind in ipairs(KINDS) do
      if kind[3][name] then return kind end
    end
  end
  return KINDS[#KINDS]
end

--- Trainings or policies of a file: list of { label =, ranks = { name = list of events }, order }.
function spans.read(path)
  local file, why = io.open(path, 'rb')
  if not file then errors.plain('%s', why) end
  local document = json.decode(file:read '*a')
  file:close()
  local events = type(document) == 'table' and document.traceEvents
  if not events then errors.usage('%s: no timeline of neap run or neap simulate', path) end
  local runs, by_label, ranks = {}, {}, {}
  for _, event in ipairs(events) do
    if event.name == 'process_name' then
      local label, rank = event.args.name:match '^(.*): (.-)$'
      if not by_label[label] then
        by_label[label] = { label = label, ranks = {} }
        runs[#runs + 1] = by_label[label]
      end
      ranks[event.pid] = { name = rank, events = {} }
      table.insert(by_label[label].ranks, ranks[event.pid])
    elseif event.ph == 'X' then
      table.insert(ranks[event.pid].events, event)
    end
  end
  return runs
end

--- Begin and end of a run, in microseconds.
local function bounds(run)
  local first, last = math.huge, 0
  for _, rank in ipairs(run.ranks) do
    for _, event in ipairs(rank.events) do
      first, last = math.min(first, event.ts), math.max(last, event.ts + event.dur)
    end
  end
  return first, math.max(last, first + 1)
end

local function draw_rank(d, rank, y, first, scale)
  table.sort(rank.events, function(a, b) return a.dur > b.dur end) -- those inside others on top
  local box = {}
  for i, stream in ipairs(STREAMS) do
    box[stream] = i == 1 and { y, TALL } or { y + TALL + 1 + (i - 2) * (THIN + 1), THIN }
  end
  d:text(LEFT - 8, y + 11, rank.name, { anchor = 'end', size = 10 })
  for _, event in ipairs(rank.events) do
    local width, at = event.dur * scale, box[event.cat]
    if width >= 0.2 and at then
      d:rect(LEFT + (event.ts - first) * scale, at[1], width, at[2], { fill = kind_of(event)[2] })
    end
  end
end

--- Where kinds stand in the legend, and how many rows that takes.
local function legend_places(width)
  local places, x, row = {}, LEFT, 0
  for i, kind in ipairs(KINDS) do
    local needed = 34 + 7 * #kind[1]
    if x > LEFT and x + needed > width then x, row = LEFT, row + 1 end
    places[i] = { x, row }
    x = x + needed
  end
  return places, row + 1
end

local function draw_legend(d, y)
  for i, place in ipairs((legend_places(d.width))) do
    local kind, top = KINDS[i], y + place[2] * LEGEND_ROW
    d:rect(place[1], top, 12, 10, { fill = kind[2] })
    d:text(place[1] + 16, top + 9, kind[1], { size = 10.5 })
  end
end

--- A run of read as a drawing; width: of the drawing (default 1000).
function spans.draw(run, width)
  width = width or WIDTH
  local count = math.min(#run.ranks, MOST_RANKS)
  local row = TALL + 3 * (THIN + 1) + GAP
  local first, last = bounds(run)
  local scale = (width - LEFT - 12) / (last - first)
  local _, rows = legend_places(width)
  local d = svg.open { width = width, height = TOP + count * row + LEGEND
    + (rows - 1) * LEGEND_ROW, title = ('Timeline of a step under %s'):format(run.label) }
  d:text(8, 17, ('%s: one step, %.4g ms'):format(svg.short(run.label), (last - first) / 1e3),
    { weight = '600', size = 12.5 })
  for i = 1, count do draw_rank(d, run.ranks[i], TOP + (i - 1) * row, first, scale) end
  for i = 0, 4 do
    local x = LEFT + (width - LEFT - 12) * i / 4
    d:text(x, TOP + count * row + 10, ('%.4g%s'):format((last - first) / 1e3 * i / 4,
      i == 4 and ' ms' or ''), { anchor = i == 4 and 'end' or 'middle', size = 10,
      fill = '#5b626b' })
  end
  draw_legend(d, TOP + count * row + 24)
  return d
end

return spans

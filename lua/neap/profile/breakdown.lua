-- SPDX-License-Identifier: Apache-2.0

--- Where the time of a step goes: of gathered spans (timeline.lua), measured on any device.
--
--   local summary = breakdown.summary(ranks)
--   print(breakdown.text(summary))

local lib = require 'neap.base.lib'
local text_table = require 'neap.base.text_table'
local timeline = require 'neap.engine.timeline'

local breakdown = {}

local COMPUTED = {} -- key beside titles

--- Calls emit(span, begin, finish) for every time in which a span is the innermost one of the
-- compute stream. Raises FORMAT where spans overlap without one holding the other.
local function innermost(spans, emit)
  local open, at = {}, 0
  local function close_until(time)
    while open[#open] and open[#open].finish <= time do
      local span = open[#open]
      emit(span, at, span.finish)
      at, open[#open] = span.finish, nil
    end
  end
  for _, span in ipairs(spans) do
    if span.stream == 'compute' then
      close_until(span.begin)
      local outer = open[#open]
      if outer then
        if span.finish > outer.finish then
          lib.raise('FORMAT', ('timeline: %s from %.9f to %.9f s and %s from %.9f to %.9f s '
            .. 'overlap'):format(outer.name, outer.begin, outer.finish, span.name, span.begin,
            span.finish), 2)
        end
        emit(outer, at, span.begin)
      end
      open[#open + 1], at = span, span.begin
    end
  end
  close_until(math.huge)
end

--- Length of the union of intervals, a list of { begin, finish }.
local function union(list)
  table.sort(list, function(a, b) return a[1] < b[1] end)
  local sum, last = 0, -math.huge
  for _, interval in ipairs(list) do
    sum = sum + math.max(0, interval[2] - math.max(last, interval[1]))
    last = math.max(last, interval[2])
  end
  return sum
end

--- Adds the time of every span of the compute stream, without that of spans inside it, to
-- own[title], and the times in which it computes to computing.
local function add_own(spans, own, computing)
  innermost(spans, function(span, begin, finish)
    local title = timeline.title(span)
    own[title] = (own[title] or 0) + finish - begin
    if finish > begin and timeline.computes(span) then
      own[COMPUTED] = (own[COMPUTED] or 0) + finish - begin
      computing[#computing + 1] = { begin, finish }
    end
  end)
end

--- Mean over ranks, largest, and the rank that it is of.
local function over_ranks(list, key)
  local sum, most, slowest = 0, -1, 0
  for r, values in ipairs(list) do
    local value = values[key] or 0
    sum = sum + value
    if value > most then most, slowest = value, r - 1 end
  end
  return { name = key, mean = sum / #list, most = most, rank = slowest }
end

local function in_order(list, order)
  local rows = {}
  for _, key in ipairs(order) do
    local row = over_ranks(list, key)
    if row.most > 0 then rows[#rows + 1] = row end
  end
  return rows
end

local EXPOSED = { 'tokens', 'unshard', 'late', 'reduce', 'other' }

--- From the first begin to the last finish of a rank's spans of the host, by layer.
local function gaps_of(spans)
  local gaps = {}
  for _, span in ipairs(spans) do
    if span.name == 'host' and span.layer then
      local gap = gaps[span.layer] or { begin = math.huge, finish = 0, waited = 0 }
      gap.begin, gap.finish = math.min(gap.begin, span.begin), math.max(gap.finish, span.finish)
      gaps[span.layer] = gap
    end
  end
  for _, span in ipairs(spans) do
    local gap = span.name == 'wait' and gaps[span.layer]
    if gap and span.begin >= gap.begin and span.finish <= gap.finish then
      gap.waited = gap.waited + span.finish - span.begin
    end
  end
  return gaps
end

--- For how long a GPU's stream waits in a layer until counts, layout and split have made the
-- tokens' places, and how much of that it waits for the other ranks' counts: mean seconds over
-- ranks and layers, and the sum over layers. Nil on the CPU.
local function host_gap(ranks)
  local sum, waited, count = 0, 0, 0
  for _, spans in ipairs(ranks) do
    local gaps = gaps_of(spans)
    for _, layer in ipairs(lib.sorted_keys(gaps)) do
      local gap = gaps[layer]
      sum, waited, count = sum + gap.finish - gap.begin, waited + gap.waited, count + 1
    end
  end
  if count > 0 then return sum / count, waited / count, sum / #ranks end
end

--- Of gathered spans: seconds (from the first begin to the last end), compute (seconds of every
-- title on the compute stream, inner spans taken from outer ones; 'step' is then what no other one
-- covers), busy (of every other stream), exposed (waits by what they wait for). Lists of { name =,
-- mean = over ranks, most = of the rank with the most, rank = it }. And numbers: computing (mean
-- seconds over ranks of computation), any_computing (seconds in which at least one rank computes),
-- waiting (mean seconds of waits), and on a GPU host_gap (seconds per layer, of which
-- host_gap_waits for other ranks' counts) and host_gaps (per step).
function breakdown.summary(ranks)
  local own, busy, exposed, first, last = {}, {}, {}, math.huge, -math.huge
  local intervals, computing, waiting = {}, 0, 0
  for r, spans in ipairs(ranks) do
    own[r], busy[r] = {}, {}
    add_own(spans, own[r], intervals)
    local use = timeline.time_use(spans)
    exposed[r], waiting = use.exposed, waiting + use.waiting / #ranks
    for _, span in ipairs(spans) do
      first, last = math.min(first, span.begin), math.max(last, span.finish)
      if span.stream ~= 'compute' then
        busy[r][span.stream] = (busy[r][span.stream] or 0) + span.finish - span.begin
      end
    end
    computing = computing + (own[r][COMPUTED] or 0) / #ranks
  end
  local gap, gap_waits, gaps = host_gap(ranks)
  return {
    seconds = math.max(last - first, 0), compute = in_order(own, timeline.names),
    busy = in_order(busy, timeline.streams), exposed = in_order(exposed, EXPOSED),
    computing = computing, any_computing = union(intervals), waiting = waiting,
    host_gap = gap, host_gap_waits = gap_waits, host_gaps = gaps,
  }
end

local function add_rows(rows, title, list, seconds)
  for _, row in ipairs(list) do
    rows[#rows + 1] = { title .. row.name, ('%.2f'):format(row.mean * 1e3),
      ('%.1f %%'):format(100 * row.mean / seconds), ('%.2f'):format(row.most * 1e3), row.rank }
  end
end

--- A summary on one screen.
function breakdown.text(summary)
  local rows = {}
  add_rows(rows, '', summary.compute, summary.seconds)
  add_rows(rows, 'exposed: wait for ', summary.exposed, summary.seconds)
  add_rows(rows, 'stream busy: ', summary.busy, summary.seconds)
  local text = text_table.format({ 'span', 'mean ms', 'of step', 'max ms', 'rank' }, rows)
  if not summary.host_gap then return text end
  return ("%s\na layer waits %.3f ms for the host, %.3f ms of it for other ranks' counts"):format(
    text, summary.host_gap * 1e3, summary.host_gap_waits * 1e3)
end

return breakdown

-- SPDX-License-Identifier: Apache-2.0

--- Timelines as files for trace viewers (Perfetto, chrome://tracing): the JSON format of Chrome's
-- trace events. A process is a rank, a thread is a stream; an arrow leads from an unshard to the
-- experts that it was for. Spans of a simulated step's critical path are marked (and red in viewers
-- that know cname).
--
--   chrome_trace.write('step.json', { { label = 'laer', ranks = ranks } })   -- ranks: of gather

local json = require 'neap.base.json'
local outputs = require 'neap.base.outputs'
local timeline = require 'neap.engine.timeline'

local chrome_trace = {}

-- Trace events count in microseconds.
local function microseconds(seconds)
  return seconds * 1e6
end

local ORDER = { 'name', 'cat', 'ph', 'ts', 'dur', 'pid', 'tid', 'id', 'bp', 'args' }

local function add(events, event)
  events[#events + 1] = json.encode(event, ORDER)
end

local TRACK = {}
for i, stream in ipairs(timeline.streams) do TRACK[stream] = i - 1 end

local function add_names(events, process, label)
  add(events, { ph = 'M', name = 'process_name', pid = process, args = { name = label } })
  add(events, { ph = 'M', name = 'process_sort_index', pid = process,
    args = { sort_index = process } })
  for track, stream in ipairs(timeline.streams) do
    add(events, { ph = 'M', name = 'thread_name', pid = process, tid = track - 1,
      args = { name = stream } })
    add(events, { ph = 'M', name = 'thread_sort_index', pid = process, tid = track - 1,
      args = { sort_index = track - 1 } })
  end
end

local function add_span(events, process, span)
  add(events, {
    ph = 'X', name = span.name, cat = span.stream, pid = process, tid = TRACK[span.stream],
    ts = microseconds(span.begin), dur = microseconds(span.finish - span.begin),
    cname = span.critical and 'terrible' or nil,
    args = setmetatable({ phase = span.phase, layer = span.layer, chunk = span.chunk,
      waits_for = span.waits_for, critical = span.critical, micro = span.micro },
      { __jsontype = 'object' }),
  })
end

--- The first span of the layer's experts that ends after a time: it needs what arrived then.
local function user_of(spans, unshard)
  for _, span in ipairs(spans) do
    if span.name == 'expert' and span.layer == unshard.layer and span.finish >= unshard.finish then
      return span
    end
  end
end

--- Arrows begin and end inside their spans; returns how many there are now.
local function add_arrows(events, process, spans, arrows)
  for _, span in ipairs(spans) do
    local user = span.name == 'unshard' and span.stream == 'unshard' and user_of(spans, span)
    if user then
      arrows = arrows + 1
      local arrow = { name = 'weights', cat = 'weights', id = arrows, pid = process }
      arrow.ph, arrow.tid, arrow.ts = 's', TRACK.unshard, microseconds(span.begin)
      add(events, arrow)
      arrow.ph, arrow.bp, arrow.tid = 'f', 'e', TRACK.compute
      arrow.ts = microseconds(math.max(user.begin, span.finish))
      add(events, arrow)
    end
  end
  return arrows
end

--- Trace events as JSON texts, a list. runs: list of { label = text or nil, ranks = a list of
-- lists of spans }; the ranks of the first run are processes 0, 1, …, the next ones follow.
function chrome_trace.events(runs)
  local events, process, arrows = {}, 0, 0
  for _, run in ipairs(runs) do
    for r, spans in ipairs(run.ranks) do
      local label = run.label and run.label .. ': ' or ''
      add_names(events, process, ('%srank %d'):format(label, r - 1))
      for _, span in ipairs(spans) do add_span(events, process, span) end
      arrows = add_arrows(events, process, spans, arrows)
      process = process + 1
    end
  end
  return events
end

--- Writes the file, or raises a plain error.
function chrome_trace.write(path, runs)
  outputs.write(path, table.concat { '{"displayTimeUnit":"ms","traceEvents":[\n',
    table.concat(chrome_trace.events(runs), ',\n'), '\n]}\n' })
end

return chrome_trace

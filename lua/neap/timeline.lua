--- Timelines: spans of what every rank's streams do in a step, and where its time goes.
--
--   local recorder = timeline.open()
--   recorder:start(step)                               -- this thread's engine calls are recorded
--   …                                                  -- timeline.begin and finish add more
--   recorder:stop()
--   local ranks = timeline.gather(comm, recorder)      -- on rank 0: a list of lists of spans
--   print(timeline.text(timeline.summary(ranks)))
--
-- A span is { name =, phase =, stream =, begin =, finish =, layer =, chunk =, waits_for = }: times
-- in seconds; phase, layer, chunk and waits_for (a stream, for name 'wait') where there are any.
-- neap.h lists names, phases and streams. timeline_file.lua writes them, measured or simulated.
-- Layers count from 0; of ranks, rank r is element r + 1.

local lib = require 'neap.lib'
local text_table = require 'neap.table'

local ffi, C, check = lib.ffi, lib.C, lib.check

local timeline = { names = {}, streams = {} }

local ROOM = 65536 -- spans of a rank's ring

--- A span's name with its phase, where it is not the forward's: 'expert', 'expert backward'.
function timeline.title(span)
  return span.phase == 'backward' and span.name .. ' backward' or span.name
end

local KINDS, ID = {}, {} -- by id, and ids by title
for id = 0, C.NEAP_SPANS - 1 do
  local phase = ffi.string(C.neap_span_phase(id))
  local kind = { name = ffi.string(C.neap_span_name(id)), phase = phase ~= '' and phase or nil }
  KINDS[id], timeline.names[id + 1] = kind, timeline.title(kind)
  ID[timeline.title(kind)] = id
end
for i = 0, C.NEAP_STREAMS - 1 do
  timeline.streams[i + 1] = ffi.string(C.neap_stream_name(i))
end

---- recording

--- When a span begins, for finish; nothing is recorded unless a recorder of this thread is started.
function timeline.begin()
  return C.neap_timeline_begin()
end

--- Records a span of the compute stream, by its title ('head', 'head backward'). Spans nest: the
-- last one begun ends first.
function timeline.finish(title, began)
  if began > 0 then C.neap_timeline_end(ID[title], began) end
end

--- The layer of spans and exchanges to come; -1: none. Returns the one until now.
function timeline.layer(layer)
  return C.neap_timeline_layer(layer)
end

local Recorder = {}
Recorder.__index = Recorder
local out = ffi.new 'neap_timeline *[1]'
local lost = ffi.new 'int64_t[1]'

--- A recorder that keeps the latest room spans.
function timeline.open(room)
  check(C.neap_timeline_open(room or ROOM, out), 2)
  return lib.handle(Recorder, out[0], C.neap_timeline_close)
end

--- Forgets what was recorded; from now on this thread records, as of a step.
function Recorder:start(step)
  C.neap_timeline_clear(self.ptr)
  C.neap_timeline_use(self.ptr)
  C.neap_timeline_step(step)
  C.neap_timeline_layer(-1)
end

--- This thread records no more.
function Recorder.stop()
  C.neap_timeline_use(nil)
end

--- Spans that were overwritten because there was no room.
function Recorder:lost()
  C.neap_timeline_count(self.ptr, lost)
  return tonumber(lost[0])
end

function Recorder:close()
  self:stop()
  lib.close(self)
end

--- A recorded span as a table; its times less an offset.
local function read(span, offset)
  local waits_for = span.waits_for >= 0 and timeline.streams[span.waits_for + 1] or nil
  local kind = KINDS[span.id]
  return {
    name = kind.name, phase = kind.phase, stream = timeline.streams[span.stream + 1],
    begin = span.begin - offset, finish = span['end'] - offset,
    layer = span.layer >= 0 and span.layer or nil, chunk = span.chunk >= 0 and span.chunk or nil,
    waits_for = waits_for,
  }
end

--- Outer spans before the inner ones that begin at the same time.
local function by_time(a, b)
  if a.begin ~= b.begin then return a.begin < b.begin end
  return a.finish > b.finish
end

local SPAN_BYTES = ffi.sizeof 'neap_span'

-- Clocks that read within so many seconds of rank 0's after a barrier are one and the same: that of
-- a host, which starts when the host does.
local ONE_CLOCK = 1

--- What to take from each rank's times to have rank 0's clock. Collective.
local function clock_offsets(comm, ones)
  local mine, all = ffi.new 'double[1]', ffi.new('double[?]', comm:size())
  comm:barrier()
  mine[0] = C.neap_clock()
  comm:all_gather(mine, all, ones, 'f64')
  local offsets = {}
  for r = 1, comm:size() do
    local offset = all[r - 1] - all[0]
    offsets[r] = math.abs(offset) < ONE_CLOCK and 0 or offset
  end
  return offsets
end

--- All ranks' spans one after the other, and a list of their counts. Collective.
local function exchange(comm, recorder, ones)
  local ranks, mine = comm:size(), ffi.new 'int64_t[1]'
  local count = tonumber(C.neap_timeline_count(recorder.ptr, lost))
  local spans = ffi.new('neap_span[?]', math.max(count, 1))
  mine[0] = C.neap_timeline_spans(recorder.ptr, count, spans) * SPAN_BYTES
  local bytes, counts, total = ffi.new('int64_t[?]', ranks), {}, 0
  comm:all_gather(mine, bytes, ones, 'i64')
  for r = 1, ranks do
    counts[r] = tonumber(bytes[r - 1]) / SPAN_BYTES
    total = total + counts[r]
  end
  local all = ffi.new('neap_span[?]', math.max(total, 1))
  comm:all_gather(spans, all, bytes, 'u8')
  return all, counts
end

--- The spans of all ranks, ordered by their begin, in rank 0's clock, from the first begin on. On
-- rank 0 only, else nil. Collective.
function timeline.gather(comm, recorder)
  local ones = ffi.new('int64_t[?]', comm:size())
  for r = 0, comm:size() - 1 do ones[r] = 1 end
  local offsets = clock_offsets(comm, ones)
  local all, counts = exchange(comm, recorder, ones)
  if comm:rank() ~= 0 then return nil end
  local list, at, origin = {}, 0, math.huge
  for r, count in ipairs(counts) do
    list[r] = {}
    for i = 1, count do
      list[r][i] = read(all[at + i - 1], offsets[r])
      origin = math.min(origin, list[r][i].begin)
    end
    at = at + count
  end
  for _, spans in ipairs(list) do
    for _, span in ipairs(spans) do
      span.begin, span.finish = span.begin - origin, span.finish - origin
    end
    table.sort(spans, by_time)
  end
  return list
end

---- where the time goes

--- Adds the time of every span of a stream, without that of spans inside it, to own[title], and of
-- waits to exposed[what]. Raises FORMAT where spans overlap without one holding the other.
local function add_own(spans, stream, own, exposed)
  local open = {}
  for _, span in ipairs(spans) do
    if span.stream == stream then
      local length = span.finish - span.begin
      while open[#open] and open[#open].finish <= span.begin do open[#open] = nil end
      local outer = open[#open]
      if outer and span.finish > outer.finish then
        lib.raise('FORMAT', ('timeline: %s from %.9f to %.9f s and %s from %.9f to %.9f s overlap')
          :format(outer.name, outer.begin, outer.finish, span.name, span.begin, span.finish), 2)
      end
      local title = timeline.title(span)
      own[title] = (own[title] or 0) + length
      if outer then
        title = timeline.title(outer)
        own[title] = own[title] - length
      end
      if span.name == 'wait' then
        local kind = span.waits_for or 'other'
        exposed[kind] = (exposed[kind] or 0) + length
      end
      open[#open + 1] = span
    end
  end
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

local EXPOSED = { 'tokens', 'unshard', 'reduce', 'other' }

--- Of gathered spans: seconds (from the first begin to the last end), compute (seconds of every
-- title on the compute stream, inner spans taken from outer ones; 'step' is then what no other one
-- covers), busy (of every other stream), exposed (waits by what they wait for). Lists of { name =,
-- mean = over ranks, most = of the rank with the most, rank = it }.
function timeline.summary(ranks)
  local own, busy, exposed, first, last = {}, {}, {}, math.huge, -math.huge
  for r, spans in ipairs(ranks) do
    own[r], busy[r], exposed[r] = {}, {}, {}
    add_own(spans, 'compute', own[r], exposed[r])
    for _, span in ipairs(spans) do
      first, last = math.min(first, span.begin), math.max(last, span.finish)
      if span.stream ~= 'compute' then
        busy[r][span.stream] = (busy[r][span.stream] or 0) + span.finish - span.begin
      end
    end
  end
  return {
    seconds = math.max(last - first, 0), compute = in_order(own, timeline.names),
    busy = in_order(busy, timeline.streams), exposed = in_order(exposed, EXPOSED),
  }
end

local function add_rows(rows, title, list, seconds)
  for _, row in ipairs(list) do
    rows[#rows + 1] = { title .. row.name, ('%.2f'):format(row.mean * 1e3),
      ('%.1f %%'):format(100 * row.mean / seconds), ('%.2f'):format(row.most * 1e3), row.rank }
  end
end

--- A summary on one screen.
function timeline.text(summary)
  local rows = {}
  add_rows(rows, '', summary.compute, summary.seconds)
  add_rows(rows, 'exposed: wait for ', summary.exposed, summary.seconds)
  add_rows(rows, 'stream busy: ', summary.busy, summary.seconds)
  return text_table.format({ 'span', 'mean ms', 'of step', 'max ms', 'rank' }, rows)
end

return timeline

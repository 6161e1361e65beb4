-- SPDX-License-Identifier: Apache-2.0

--- Timelines: spans of what every rank's streams do in a step, and where its time goes.
--
--   local recorder = timeline.open()
--   recorder:start(step)                               -- this thread's engine calls are recorded
--   …                                                  -- timeline.begin and finish add more
--   recorder:stop()
--   local ranks = timeline.gather(comm, recorder)      -- on rank 0: a list of lists of spans
--   print(time_use.text(time_use.summary(ranks)))   -- time_use.lua
--
-- A span is { name =, phase =, stream =, begin =, finish =, layer =, chunk =, waits_for = }: times
-- in seconds; phase, layer, chunk and waits_for (a stream, for name 'wait') where there are any.
-- neap.h lists names, phases and streams. profile/chrome_trace.lua writes them, measured or
-- simulated. Layers count from 0; of ranks, rank r is element r + 1.

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local timeline = { names = {}, streams = {} }

local CAPACITY = 65536 -- spans of a rank's ring

--- A span's name with its phase, where it is not the forward's: 'expert', 'expert backward'.
-- : table -> string
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

--- ---- recording ------------------------------------------------------------------------------

--- When a span of the compute stream begins, for finish, by its title ('head', 'head backward').
-- Nothing is recorded unless a recorder of this thread is started.
-- : string -> number?
function timeline.begin(title)
  return C.neap_timeline_begin(ID[title])
end

--- Records the span. Spans nest: the last one begun ends first.
-- : string, number?
function timeline.finish(title, began)
  C.neap_timeline_end(ID[title], began)
end

--- The layer of spans and exchanges to come; -1: none. Returns the one until now.
-- : integer -> integer
function timeline.layer(layer)
  return C.neap_timeline_layer(layer)
end

local Recorder = {}
Recorder.__index = Recorder
local out = ffi.new 'neap_timeline *[1]'
local lost = ffi.new 'int64_t[1]'

--- A recorder that keeps the latest capacity spans.
-- : integer -> Recorder
function timeline.open(capacity)
  check(C.neap_timeline_open(capacity or CAPACITY, out), 2)
  return lib.handle(Recorder, out[0], C.neap_timeline_close)
end

--- Forgets what was recorded; from now on this thread records, as of a step.
-- : integer
function Recorder:start(step)
  C.neap_timeline_clear(self.ptr)
  C.neap_timeline_use(self.ptr)
  C.neap_timeline_step(step)
  C.neap_timeline_layer(-1)
end

--- This thread records no more; on a GPU, waits for what was recorded. To be called when all
-- exchanges have been waited for, before spans are read.
function Recorder:stop()
  C.neap_timeline_use(nil)
  check(C.neap_timeline_resolve(self.ptr), 2)
end

--- Spans that were overwritten because there were more.
-- : -> integer
function Recorder:lost()
  C.neap_timeline_count(self.ptr, lost)
  return tonumber(lost[0])
end

--- Frees the recorder.
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
-- : Comm, Recorder -> list of table?
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

--- ---- of a step ------------------------------------------------------------------------------

-- Streams that waits are for, as C orders them.
local AWAITED = { [C.NEAP_COMPUTE] = 'other', [C.NEAP_TOKENS] = 'tokens',
  [C.NEAP_UNSHARD] = 'unshard', [C.NEAP_REDUCE] = 'reduce',
  [C.NEAP_LATE] = 'late' }

--- What C tells of exposed communication as a table of seconds: tokens, unshard, late, reduce,
-- other (any other exchange; the end of a simulated step). exposed: double[NEAP_STREAMS].
-- : double[] -> table
function timeline.exposed(exposed)
  local seconds = {}
  for stream, name in pairs(AWAITED) do seconds[name] = exposed[stream] end
  return seconds
end

local use = ffi.new 'neap_time_use'

local function read_use()
  local exposed, sum = timeline.exposed(use.exposed), 0
  for stream = 0, C.NEAP_STREAMS - 1 do sum = sum + use.exposed[stream] end
  return { seconds = use.seconds, computing = use.computing, waiting = sum, exposed = exposed }
end

--- Where the time of what this rank has recorded goes (neap_time_use): seconds (of its outermost
-- spans together: the step), computing, waiting, and exposed, what is waited for.
-- : -> table
function Recorder:time_use()
  check(C.neap_timeline_time_use(self.ptr, use), 2)
  return read_use()
end

--- Seconds that this rank has waited for a stream ('unshard', …) in each of so many layers:
-- double[layers].
-- : string, integer -> double[layers]
function Recorder:waits(stream, layers)
  local count, waits = tonumber(C.neap_timeline_count(self.ptr, lost)), ffi.new('double[?]', layers)
  local spans = ffi.new('neap_span[?]', math.max(count, 1))
  for i = 0, tonumber(C.neap_timeline_spans(self.ptr, count, spans)) - 1 do
    local span = spans[i]
    if span.id == C.NEAP_SPAN_WAIT and AWAITED[span.waits_for] == stream and span.layer >= 0
        and span.layer < layers then
      waits[span.layer] = waits[span.layer] + span['end'] - span.begin
    end
  end
  return waits
end

--- Inner spans before the outer ones that end at the same time.
local function by_end(a, b)
  if a.finish ~= b.finish then return a.finish < b.finish end
  return a.begin > b.begin
end

--- The same of a list of spans of one rank, as gather gives them, measured or simulated.
-- : list of table -> table
function timeline.time_use(list)
  local sorted, spans = {}, ffi.new('neap_span[?]', #list + 1)
  for _, span in ipairs(list) do
    if span.stream == 'compute' then sorted[#sorted + 1] = span end
  end
  table.sort(sorted, by_end)
  for i, span in ipairs(sorted) do
    local c = spans[i - 1]
    c.id, c.begin, c['end'], c.waits_for = ID[timeline.title(span)], span.begin, span.finish, -1
    for stream, name in pairs(AWAITED) do
      if span.waits_for == name then c.waits_for = stream end
    end
  end
  check(C.neap_spans_time_use(spans, #sorted, use), 2)
  return read_use()
end

--- Whether a span of the compute stream is computation.
-- : table -> boolean
function timeline.computes(span)
  return C.neap_span_computes(ID[timeline.title(span)]) == 1
end

return timeline

-- SPDX-License-Identifier: Apache-2.0

--- neap run --timeline: what the file holds, on threads and under mpirun.

local clusters = require 'neap.simulate.cluster'
local json = require 'neap.base.json'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'
local program = require 'tests.cli.program'

local SMALL = 'run experiments/quickstart.lua --layers=3 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=48 --experts=6 --slots=3 --batch=8 --sequence=32 --text=english --steps=3 '
  .. "--trace='' --node-size=2 "

local STREAMS = { 'compute', 'tokens', 'unshard', 'reduce' }

--- The events of a recorded run, and what it printed.
local function record(ranks, processes, arguments)
  local path = os.tmpname()
  local run = processes and function(text) return program.mpirun(ranks, text) end or program.run
  if not arguments:find '%-%-shard%-group' then arguments = arguments .. ' --shard-group=node' end
  local status, out, err = run(SMALL .. arguments .. ' --timeline=' .. path
    .. (processes and '' or ' -n ' .. ranks))
  assert.are.equal(0, status, err)
  local file = assert(io.open(path))
  local events = json.decode(file:read '*a').traceEvents
  file:close()
  os.remove(path)
  return events, out
end

--- Spans by process and track, as [pid][tid] = list.
local function tracks(events)
  local found = {}
  for _, event in ipairs(events) do
    if event.ph == 'X' then
      local process = found[event.pid] or {}
      found[event.pid] = process
      process[event.tid] = process[event.tid] or {}
      table.insert(process[event.tid], event)
    end
  end
  return found
end

--- Each span lies inside those that are open where it begins. Times have 14 digits.
local function check_nesting(spans)
  local open = {}
  for _, span in ipairs(spans) do
    while open[#open] and open[#open].ts + open[#open].dur <= span.ts + 1e-6 do
      open[#open] = nil
    end
    local outer = open[#open]
    assert.is_true(not outer or span.ts + span.dur <= outer.ts + outer.dur + 1e-6,
      outer and ('%s at %.3f us, %s at %.3f us'):format(outer.name, outer.ts, span.name, span.ts))
    open[#open + 1] = span
  end
end

local function names(process)
  local seen = {}
  for track, stream in ipairs(STREAMS) do
    for _, span in ipairs(process[track - 1] or {}) do
      assert.are.equal(stream, span.cat)
      local backward = span.args.phase == 'backward'
      seen[('%s %s%s'):format(stream, span.name, backward and ' backward' or '')] = true
    end
  end
  return seen
end

local EXPECTED = { 'compute step', 'compute plan', 'compute embed', 'compute attention',
  'compute route', 'compute dispatch', 'compute expert', 'compute finish', 'compute head',
  'compute loss', 'compute head backward', 'compute finish backward', 'compute expert backward',
  'compute route backward', 'compute attention backward', 'compute embed backward',
  'compute optimizer', 'compute wait', 'compute unshard', 'compute reduce', 'tokens counts',
  'tokens dispatch', 'tokens combine', 'tokens dispatch backward', 'tokens combine backward',
  'unshard unshard', 'unshard refresh', 'reduce reduce' }

local function check(events, ranks)
  local found = tracks(events)
  for rank = 0, ranks - 1 do
    for track = 0, #STREAMS - 1 do check_nesting(found[rank][track]) end
    local seen = names(found[rank])
    for _, name in ipairs(EXPECTED) do assert.is_true(seen[name], name) end
  end
  assert.is_nil(found[ranks])
end

-- Spans that only one of both has: a whole step and the policy's part, waits, copies within a rank;
-- the dense parameters' exchanges.
local EITHER = { step = true, plan = true, wait = true, ['dense reduce'] = true,
  ['dense gather'] = true, ['compute unshard'] = true }

--- The spans of a stream in order, several of a kind that follow each other as one.
local function sequence(spans, stream)
  local list = {}
  for _, span in ipairs(spans) do
    if span.stream == stream and not EITHER[span.name] and not EITHER[stream .. ' ' .. span.name]
    then
      local layer = not (stream == 'compute' and span.name == 'reduce') and span.layer or ''
      local text = ('%s %s %s'):format(span.name, span.phase ~= 'forward' and stream ~= 'unshard'
        and stream ~= 'reduce' and span.phase or '', layer)
      if text ~= list[#list] then list[#list + 1] = text end
    end
  end
  return list
end

--- The same model as SMALL describes, simulated: all spans of a step, in order.
local function simulated(schedule, ep, dense)
  local s = simulate.open { cluster = clusters.describe('laptop',
      { ranks = 4, node_size = 2, host = 0 }),
    policy = 'static', schedule = schedule, shard_group = ep and 'resident' or 'node', ep = ep,
    warm_up = 0,
    model = models.describe { hidden = 32, heads = 2, kv_heads = 1, ffn = 48, experts = 6,
      top_k = 2, slots = 3, layers = 3, sequence = 32, tokens = 64, micro_batches = 1,
      recompute = false, bytes = 4, vocabulary = 256, dense_layers = dense and 1 or 0,
      shared_experts = dense and 1 or 0 } }
  s:step()
  local list = {}
  for op = 0, #s.cluster.spans do list[op + 1] = s.cluster.spans[op] end
  s:close()
  return list
end

--- Spans of a rank of a recorded run.
local function measured(events, rank)
  local list = {}
  for _, event in ipairs(events) do
    if event.ph == 'X' and event.pid == rank then
      list[#list + 1] = { name = event.name, stream = STREAMS[event.tid + 1], at = event.ts,
        phase = event.args.phase, layer = event.args.layer }
    end
  end
  return list
end

describe('a simulated timeline', function()
  for _, schedule in ipairs { 'none', 'eager', 'laer', 'neap', 'laer:chunks=3,hold_combine=true',
    'laer:unshard_parts=2,unshard_ahead=2,gradients=1', 'neap:recompute=true',
    'laer:recompute=true,chunks=2' } do
    it('has the spans of a measured one, in their order, schedule ' .. schedule, function()
      local model = simulated(schedule)
      local real = measured(record(4, false, '--policies=static --schedule=' .. schedule), 2)
      for _, stream in ipairs(STREAMS) do
        assert.are.same(sequence(model, stream), sequence(real, stream))
      end
    end)
  end

  it('has them where some layers are dense, and some experts shared', function()
    for _, schedule in ipairs { 'laer', 'neap:recompute=true' } do
      local model = simulated(schedule, nil, true)
      local real = measured(record(4, false, '--policies=static --dense-layers=1 '
        .. '--shared-experts=1 --schedule=' .. schedule), 2)
      for _, stream in ipairs(STREAMS) do
        assert.are.same(sequence(model, stream), sequence(real, stream), stream .. ' ' .. schedule)
      end
    end
  end)

  it('has them where experts are resident', function()
    for ep, schedule in pairs { [2] = 'laer', [4] = 'neap:recompute=true,chunks=2' } do
      local model = simulated(schedule, ep)
      local real = measured(record(4, false, ('--policies=static --schedule=%s --ep=%d '
        .. '--shard-group=resident'):format(schedule, ep)), 2)
      for _, stream in ipairs(STREAMS) do
        assert.are.same(sequence(model, stream), sequence(real, stream), stream .. ' ' .. ep)
      end
      assert.are.same(ep == 2 and { 'refresh  ' } or {}, sequence(real, 'unshard'))
      assert.are.equal(ep == 2 and 3 or 0, #sequence(real, 'reduce'))
    end
  end)
end)

describe('neap run --timeline', function()
  for _, schedule in ipairs { 'laer', 'none', 'neap', 'neap:chunks=2' } do
    it('has spans that nest on all streams of all ranks, schedule ' .. schedule, function()
      check(record(4, false, '--policies=laer --schedule=' .. schedule), 4)
    end)
  end

  it('does so under mpirun', function()
    check(record(3, true, '--policies=minimax'), 3)
  end)

  it('has an arrow to experts for every unshard, and prints where the time goes', function()
    local events, out = record(4, false, '--policies=static,laer --timeline-step=1')
    local unshards, arrows, processes = 0, 0, {}
    for _, event in ipairs(events) do
      if event.name == 'unshard' and event.cat == 'unshard' then unshards = unshards + 1 end
      if event.ph == 'f' then arrows = arrows + 1 end
      if event.name == 'process_name' then processes[#processes + 1] = event.args.name end
    end
    assert.is_true(unshards > 0)
    assert.are.equal(unshards, arrows)
    assert.are.equal('static: rank 0', processes[1])
    assert.are.equal('laer: rank 3', processes[8])
    assert.matches('laer, step 1: [%d.]+ ms\nspan +mean ms', out)
    assert.matches('exposed: wait for tokens', out)
  end)

  it('refuses a step that there is none of, and a step without a file', function()
    local status, _, err = program.run(SMALL .. '--timeline=/dev/null --timeline-step=3')
    assert.are.equal(2, status)
    assert.matches('%-%-timeline%-step is 3; this training has steps 0 to 2', err)
    status, _, err = program.run(SMALL .. '--timeline-step=3')
    assert.are.equal(2, status)
    assert.matches('goes with %-%-timeline=FILE', err)
  end)
end)

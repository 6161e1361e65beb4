-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local breakdown = require 'neap.profile.breakdown'
local timeline = require 'neap.engine.timeline'
local chrome_trace = require 'neap.profile.chrome_trace'
local comm = require 'neap.engine.comm'

local ffi, C = lib.ffi, lib.C

--- A span of the compute stream, or of another.
local function span(name, begin, finish, more)
  local result = { name = name, stream = 'compute', begin = begin, finish = finish }
  for key, value in pairs(more or {}) do result[key] = value end
  return result
end

--- Gives a rank of a world of one to fn.
local function alone(fn)
  local world = ffi.new 'neap_world *[1]'
  lib.check(C.neap_world_open(1, world))
  local group = comm.open_local(world[0], 0)
  fn(group)
  group:close()
  C.neap_world_close(world[0])
end

describe('timeline', function()
  it('records nothing unless a recorder is started', function()
    local recorder = timeline.open()
    assert.are.equal(0, timeline.begin 'head')
    timeline.finish('head', timeline.begin 'head')
    recorder:start(1)
    recorder:stop()
    timeline.finish('head', timeline.begin 'head')
    alone(function(group) assert.are.same({ {} }, timeline.gather(group, recorder)) end)
    recorder:close()
  end)

  it('records spans that nest, with their layer', function()
    local recorder = timeline.open()
    recorder:start(7)
    local outer = timeline.begin 'head'
    assert.are.equal(-1, timeline.layer(2))
    timeline.finish('attention', timeline.begin 'head')
    assert.are.equal(2, timeline.layer(-1))
    timeline.finish('step', outer)
    recorder:stop()
    alone(function(group)
      local spans = timeline.gather(group, recorder)[1]
      assert.are.equal(2, #spans)
      assert.are.equal('step', spans[1].name)
      assert.are.equal(0, spans[1].begin)
      assert.are.equal('attention', spans[2].name)
      assert.are.equal(2, spans[2].layer)
      assert.is_nil(spans[1].layer)
      assert.is_true(spans[2].begin >= spans[1].begin and spans[2].finish <= spans[1].finish)
    end)
    recorder:close()
  end)

  it('keeps the latest spans, and tells how many were lost', function()
    local recorder = timeline.open(5)
    recorder:start(0)
    for i = 1, 12 do timeline.finish(i > 7 and 'head' or 'loss', timeline.begin 'head') end
    recorder:stop()
    assert.are.equal(7, recorder:lost())
    alone(function(group)
      for _, kept in ipairs(timeline.gather(group, recorder)[1]) do
        assert.are.equal('head', kept.name)
      end
    end)
    recorder:start(1)
    assert.are.equal(0, recorder:lost())
    recorder:close()
    assert.are.equal(0, timeline.begin 'head')
  end)

  it('refuses a ring without spans', function()
    assert.has_error(function() timeline.open(0) end)
  end)

  it('tells where the time goes: own time, waits by stream, the slowest rank', function()
    local summary = breakdown.summary {
      { span('step', 0, 10), span('expert', 1, 5), span('wait', 2, 3, { waits_for = 'tokens' }),
        span('dispatch', 1, 2, { stream = 'tokens' }) },
      { span('step', 0, 10), span('expert', 1, 9), span('wait', 4, 5, { waits_for = 'unshard' }),
        span('wait', 9, 9.5) },
    }
    local function row(list, name)
      for _, entry in ipairs(list) do if entry.name == name then return entry end end
    end
    assert.are.equal(10, summary.seconds)
    assert.are.same({ name = 'expert', mean = 5, most = 7, rank = 1 },
      row(summary.compute, 'expert'))
    assert.are.same({ name = 'step', mean = 3.75, most = 6, rank = 0 },
      row(summary.compute, 'step'))
    assert.are.same({ name = 'tokens', mean = 0.5, most = 1, rank = 0 },
      row(summary.exposed, 'tokens'))
    assert.are.same({ name = 'other', mean = 0.25, most = 0.5, rank = 1 },
      row(summary.exposed, 'other'))
    assert.are.same({ { name = 'tokens', mean = 0.5, most = 1, rank = 0 } }, summary.busy)
    local text = breakdown.text(summary)
    assert.matches('expert +5000.00 +50.0 %% +7000.00 +1', text)
    assert.matches('exposed: wait for unshard +500.00', text)
    assert.are.same({ 5, 1.25 }, { summary.computing, summary.waiting })
    assert.are.equal(8, summary.any_computing)
    assert.is_nil(summary.host_gap)
  end)

  it('tells how long layers wait for the host', function()
    local function host(begin, finish, l) return span('host', begin, finish, { layer = l }) end
    local ranks = { { span('step', 0, 10), host(1, 1.5, 0), span('wait', 1.5, 1.75, { layer = 0 }),
      host(2, 2.25, 0), span('wait', 3, 3.5, { layer = 0 }), host(4, 5, 1) },
      { span('step', 0, 10), host(1, 1.25, 0), host(4, 6, 1) } }
    local summary = breakdown.summary(ranks)
    assert.are.equal((1.25 + 1 + 0.25 + 2) / 4, summary.host_gap)
    assert.are.equal((1.25 + 1 + 0.25 + 2) / 2, summary.host_gaps)
    assert.are.equal(0.25 / 4, summary.host_gap_waits)
    assert.matches('a layer waits 1125.000 ms for the host, 62.500 ms', breakdown.text(summary))
  end)

  it("adds up a rank's own waits and computation as they are recorded", function()
    local recorder, spans = timeline.open(), {}
    local function record(name, inner)
      local began, last = timeline.begin(name), C.neap_clock() + 1e-3
      if inner then inner() end
      while C.neap_clock() < last do end
      timeline.finish(name, began)
    end
    recorder:start(0)
    record('step', function()
      record('loss', function() record 'wait' end)
      record 'plan'
      record 'wait'
    end)
    recorder:stop()
    alone(function(group)
      for _, s in ipairs(timeline.gather(group, recorder)[1]) do
        spans[s.name] = (spans[s.name] or 0) + s.finish - s.begin
        if s.name == 'wait' then spans.inner = spans.inner or s.finish - s.begin end
      end
    end)
    local expected = { spans.step, spans.wait, spans.loss - spans.inner }
    local use = recorder:time_use()
    assert.are.equal(use.waiting, use.exposed.other)
    for i, seconds in ipairs { use.seconds, use.waiting, use.computing } do
      assert.is_true(math.abs(seconds - expected[i]) < 1e-9, ('%d: %g, not %g'):format(i, seconds,
        expected[i]))
    end
    recorder:close()
  end)

  it('has one definition of exposed communication: the waits of the compute stream', function()
    math.randomseed(7)
    local names = { 'expert', 'plan', 'attention', 'unshard', 'loss' }
    local kinds = { 'tokens', 'unshard', 'reduce', false }
    for _ = 1, 50 do
      local list, sums, own = {}, { tokens = 0, unshard = 0, reduce = 0, other = 0 }, 0
      local time, computed = 0, { expert = true, attention = true, loss = true }
      for i = 1, 20 do -- a span, with a wait somewhere inside it and one after it
        local length, name = math.random(), names[math.random(#names)]
        local inner = { time + 0.2 * length, time + (0.2 + 0.6 * math.random()) * length }
        local after = { time + length, time + length + (i % 3 == 0 and 0 or math.random()) }
        list[#list + 1] = span(name, time, time + length)
        for _, wait in ipairs { inner, after } do
          local kind = kinds[math.random(4)] or nil
          list[#list + 1] = span('wait', wait[1], wait[2], { waits_for = kind })
          sums[kind or 'other'] = sums[kind or 'other'] + wait[2] - wait[1]
        end
        list[#list + 1] = span('dispatch', time, after[2], { stream = 'tokens' })
        own = own + (computed[name] and length - (inner[2] - inner[1]) or 0)
        time = after[2]
      end
      list[#list + 1] = span('step', 0, time)
      local use, total = timeline.time_use(list), 0
      for kind, seconds in pairs(sums) do
        assert.is_near(seconds, use.exposed[kind], 1e-9)
        total = total + seconds
      end
      assert.is_near(total, use.waiting, 1e-9)
      assert.is_near(time, use.seconds, 1e-9)
      assert.is_near(own, use.computing, 1e-9)
      local summary = breakdown.summary { list, list }
      assert.is_near(total, summary.waiting, 1e-9)
      for _, row in ipairs(summary.exposed) do assert.is_near(sums[row.name], row.mean, 1e-9) end
    end
  end)

  it('names spans that overlap without one holding the other', function()
    local ok, err = pcall(breakdown.summary, { { span('head', 0, 2), span('loss', 1, 3) } })
    assert.is_false(ok)
    assert.matches('head from .* and loss from .* overlap', err.message)
  end)

  it('writes trace events: processes, tracks, and arrows from unshards to experts', function()
    local path = os.tmpname()
    chrome_trace.write(path, { { label = 'laer', ranks = { {
      span('unshard', 1e-3, 2e-3, { stream = 'unshard', layer = 1 }),
      span('expert', 1e-3, 1.5e-3, { layer = 0 }), span('expert', 3e-3, 4e-3, { layer = 1 }),
    } } }, { ranks = { { span('head', 0, 1e-3) } } } })
    local file = assert(io.open(path))
    local events = json.decode(file:read '*a').traceEvents
    file:close()
    os.remove(path)
    local found = {}
    for _, event in ipairs(events) do
      found[#found + 1] = event.ph ~= 'M' and ('%s %s %d.%d %g'):format(event.ph, event.name,
        event.pid, event.tid, event.ts) or event.name == 'process_name' and event.args.name or nil
    end
    assert.are.same({ 'laer: rank 0', 'X unshard 0.2 1000', 'X expert 0.0 1000',
      'X expert 0.0 3000', 's weights 0.2 1000', 'f weights 0.0 3000', 'rank 0',
      'X head 1.0 0' }, found)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- Simulated timelines of two ranks, by hand: waits, critical path, the text of one screen, arrows.

local ffi = require 'ffi'
local clusters = require 'neap.simulate.cluster'
local json = require 'neap.base.json'
local spans = require 'neap.simulate.timeline'
local timeline = require 'neap.engine.timeline'
local chrome_trace = require 'neap.profile.chrome_trace'
local topologies = require 'neap.engine.topology'

-- Rank 0 attends for 1 s, rank 1 for 3 s. Then, after 0.5 s of latency, 100 bytes of tokens and 300
-- of parameters share a port of 50 B/s: tokens move for 4 s at half speed and are there at 7.5 s,
-- parameters then have 200 bytes left and are there at 11.5 s. The experts need both: 4 s on rank
-- 0, 1 s on rank 1.
local function two_ranks()
  local machine = clusters.describe('laptop', { ranks = 2, node_size = 2, port = 50, uplink = 1e9,
    latency = 0.5, far_latency = 0.5 })
  local c = clusters.open(machine, topologies.open { ranks = 2, slots = 1, experts = 2 })
  local function each(a, b) return ffi.new('double[2]', a, b) end
  local a = c:compute({ name = 'attention', layer = 0 }, 0, each(1, 3))
  local x = c:exchange({ name = 'dispatch', layer = 0 }, 'tokens',
    { ports = each(100, 20), after = { a } })
  local w = c:exchange({ name = 'unshard', layer = 0 }, 'unshard',
    { ports = each(300, 300), after = { a } })
  c:compute({ name = 'expert', layer = 0 }, 0, each(4, 1), { x, w })
  return c:run()
end

describe('the timeline of two ranks', function()
  local c

  before_each(function() c = two_ranks() end)
  after_each(function() c:close() end)

  local function find(rank, name)
    for _, span in ipairs(spans.of(c)[rank + 1]) do
      if span.name == name then return span end
    end
  end

  it('has the times that arithmetic gives', function()
    assert.are.equal(11.5 + 4, c:report().seconds)
    assert.are.equal(3, find(0, 'dispatch').begin)
    assert.are.equal(7.5, find(0, 'dispatch').finish) -- 2 s of work at half the port
    assert.are.equal(11.5, find(1, 'unshard').finish)
    local wait = find(0, 'wait')
    assert.are.same({ 1, 7.5, 'tokens' }, { wait.begin, wait.finish, wait.waits_for }) -- then 4 s
    assert.are.equal(3, find(1, 'wait').begin)
    assert.are.equal(12.5, find(1, 'expert').finish)
  end)

  it('has the exposed time that its report tells, and that of every rank', function()
    local report, sums, waiting = c:report(), {}, 0
    for _, list in ipairs(spans.of(c)) do
      local use = timeline.time_use(list)
      waiting = waiting + use.waiting / 2
      for name, seconds in pairs(use.exposed) do sums[name] = (sums[name] or 0) + seconds / 2 end
    end
    assert.are.same(report.exposed, sums)
    assert.are.equal(report.seconds - report.busy.compute, waiting)
    assert.are.same({ tokens = 5.5, unshard = 4, late = 0, reduce = 0, other = 1.5 }, sums)
  end)

  it('marks the critical path: the slow attention, the parameters, the long experts', function()
    local path = {}
    for i, place in ipairs(c:critical()) do
      path[i] = ('%s of rank %d'):format(c.spans[place.op].name, place.rank)
    end
    assert.are.same({ 'attention of rank 1', 'unshard of rank 1', 'expert of rank 0' }, path)
    assert.is_true(find(1, 'attention').critical)
    assert.is_true(find(0, 'expert').critical)
    assert.is_nil(find(0, 'attention').critical)
    assert.is_nil(find(0, 'dispatch').critical)
    assert.is_nil(find(1, 'expert').critical)
  end)

  it('says on one screen what is last and where the time goes', function()
    local text = spans.text(c)
    assert.matches('step of 15500.00 ms, ideal 4500.00 ms; last: expert of layer 0 on rank 0', text)
    assert.matches('\nattention +2000.00 +12.9 %% +3000.00 +19.4 %%', text)
    assert.matches('\nunshard +8500.00 +54.8 %% +8500.00 +54.8 %%', text)
    assert.matches('\nexpert +2500.00 +16.1 %% +4000.00 +25.8 %%', text)
    assert.matches('\ndispatch +4500.00 +29.0 %% +0.00 +0.0 %%', text)
    assert.matches('wait for tokens +5500.00', text)
    assert.matches('wait for unshard +4000.00', text)
    assert.matches('wait for the end +1500.00', text)
  end)

  it('has an arrow from each unshard into the experts that need it', function()
    local from, into = {}, {}
    for _, line in ipairs(chrome_trace.events { { ranks = spans.of(c) } }) do
      local event = json.decode(line)
      if event.ph == 's' then from[event.id] = event end
      if event.ph == 'f' then into[event.id] = event end
    end
    assert.are.equal(2, #from)
    for id, event in ipairs(from) do
      local unshard, expert = find(event.pid, 'unshard'), find(event.pid, 'expert')
      assert.is_true(event.ts >= unshard.begin * 1e6 and event.ts <= unshard.finish * 1e6)
      assert.are.equal(event.pid, into[id].pid)
      assert.is_true(into[id].ts >= expert.begin * 1e6 and into[id].ts <= expert.finish * 1e6)
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local runtime = require 'neap.policy.runtime'
local lib = require 'neap.base.lib'
local layout_builder = require 'neap.policy.layout_builder'
local layout = require 'neap.engine.layout'
local plan = require 'neap.engine.plan'
local split = require 'neap.engine.split'
local topology = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

--- Numbers that depend on the case alone.
local function dice(case)
  local index = 0
  return function(n)
    index = index + 1
    return math.floor(C.neap_random_uniform(77, case, index) * n)
  end
end

local function random_topology(roll)
  local nodes, slots, ranks = {}, {}, 0
  for node = 1, 1 + roll(4) do
    nodes[node] = 1 + roll(5)
    ranks = ranks + nodes[node]
  end
  local total = 0
  for rank = 1, ranks do
    slots[rank] = 1 + roll(4)
    total = total + slots[rank]
  end
  local experts, cost, speed = 1 + roll(total), {}, {}
  for e = 1, experts do cost[e] = 1 + roll(3) end
  for rank = 1, ranks do speed[rank] = 1 + roll(2) end
  return topology.open { nodes = nodes, slots = slots, experts = experts, cost = cost,
    speed = speed }
end

--- The context of layer 0, in a step with some history.
local function open(t, loads)
  local h = runtime.open { file = lib.home .. '/experiments/policies/hot.lua', params = {},
    topology = t, layers = 1, seed = 5 }
  for _, load in ipairs(loads or {}) do h:record(0, load) end
  local static = plan.open('static', t):plan(ffi.new('double[?]', t.ranks * t.experts))
  local ctx = h.layers[0].ctx
  ctx:enter(3, static:array())
  return ctx
end

local function random_load(t, roll)
  local load = ffi.new('int64_t[?]', t.ranks * t.experts)
  for i = 0, t.ranks * t.experts - 1 do load[i] = roll(4) == 0 and 0 or roll(100) end
  return load
end

--- The greedy rule, by search instead of a heap.
local function count_slowly(t, by_expert)
  local counts, limit, left = {}, t.ranks, t.slots - t.experts
  for e = 0, t.experts - 1 do counts[e] = 1 end
  while left > 0 do
    local best
    for e = 0, t.experts - 1 do
      local work = by_expert[e] * t:cost(e) / counts[e]
      if counts[e] < limit and (not best
        or work > by_expert[best] * t:cost(best) / counts[best]) then best = e end
    end
    if best then
      counts[best], left = counts[best] + 1, left - 1
    else
      limit = limit + t.ranks
    end
  end
  return counts
end

describe('ctx:replicas and spread', function()
  it('fill every slot of any topology, by the greedy rule', function()
    for case = 1, 300 do
      local roll = dice(case)
      local t = random_topology(roll)
      local ctx = open(t, { random_load(t, roll) })
      local by_expert = ctx.history:last():by_expert()
      local slow, draft_, before = count_slowly(t, by_expert), ctx:layout(), math.huge
      for e, count in ctx:replicas(by_expert) do
        assert.are.equal(slow[e], count)
        local work = by_expert[e] * t:cost(e) / count
        assert.is_true(work <= before)
        before = work
        draft_:spread(e, count)
      end
      local out = ffi.new('int32_t[?]', t.slots)
      layout_builder.read(t, draft_, out)
      layout.open(t):set(out)
    end
  end)

  it('refuse loads that are no numbers', function()
    local ctx = open(topology.open { ranks = 2, slots = 2, experts = 3 })
    assert.has_error(function() ctx:replicas { [0] = 1, 2 } end)
    assert.has_error(function() ctx:replicas { [0] = 1, 2, 0 / 0 } end)
    assert.has_error(function() ctx:replicas { [0] = 1, 2, -1 } end)
  end)

  it('spread over nodes first, then to the least loaded rank', function()
    local ctx = open(topology.open { ranks = 4, node_size = 2, slots = 2, experts = 4 })
    local d = ctx:layout():place(0, 1):spread(0, 2)
    assert.are.equal(0, d:at(1, 0))
    assert.are.equal(0, d:at(2, 0))
    assert.is_nil(d:at(3, 0))
    assert.is_true(d:holds(0, 1))
    assert.are.equal(1, d:free(0))
  end)
end)

describe('layout builders', function()
  local ctx = open(topology.open { ranks = 2, slots = 2, experts = 3 })

  it('swap and replace slots', function()
    local d = ctx:layout():place(0, 0):place(0, 1):place(1, 2):place(1, 2)
    d:swap(0, 1, 1, 0)
    assert.are.equal(2, d:at(0, 1))
    assert.are.equal(1, d:at(1, 0))
    d:replace(1, 1, 0)
    assert.are.equal(2, d:counts()[0])
    assert.has_error(function() ctx:layout():swap(0, 0, 1, 0) end)
    assert.has_error(function() d:replace(0, 0, 3) end)
    assert.has_error(function() d:place(0, 1) end)
    assert.has_error(function() d:at(0, 2) end)
  end)
end)

describe('ctx', function()
  it('plans as the planner itself does', function()
    for case = 1, 20 do
      local roll = dice(1000 + case)
      local t = random_topology(roll)
      local first, second = random_load(t, roll), random_load(t, roll)
      local ctx = open(t, { first, second })
      local sum = ffi.new('double[?]', t.ranks * t.experts)
      for i = 0, t.ranks * t.experts - 1 do sum[i] = first[i] + second[i] end
      local expected = plan.open('laer', t):plan(sum)
      local got = plan.laer(ctx)
      for slot = 0, t.slots - 1 do
        assert.are.equal(expected:array()[slot], got.expert_of[slot])
      end
      local cost = ctx:cost(expected, ctx.history:last())
      local balance = split.open(t, 'minimax'):compute(expected, second):balance()
      assert.are.equal(balance.imbalance, cost.imbalance)
      assert.are.equal(balance.max_work, cost.max_work)
      assert.are.equal(cost.imbalance, ctx:cost(got).imbalance)
    end
  end)

  it('has a random stream that depends on seed, step and layer alone', function()
    local t = topology.open { ranks = 2, slots = 2, experts = 3 }
    local ctx, other = open(t), open(t)
    local a, b = ctx.random:uniform(), ctx.random:normal()
    other.random:integer(5)
    other:enter(3, other.previous.expert_of)
    assert.are.equal(a, other.random:uniform())
    assert.are.equal(b, other.random:normal())
    other:enter(4, other.previous.expert_of)
    assert.are_not.equal(a, other.random:uniform())
    local list = ctx.random:shuffle { 1, 2, 3, 4, 5 }
    table.sort(list)
    assert.are.same({ 1, 2, 3, 4, 5 }, list)
    for _ = 1, 100 do
      local n = ctx.random:integer(3)
      assert.is_true(n >= 0 and n < 3 and n % 1 == 0)
    end
  end)

  it('splits only in the split hook', function()
    local ctx = open(topology.open { ranks = 2, slots = 2, experts = 3 })
    assert.has_error(function() ctx:split() end)
  end)
end)

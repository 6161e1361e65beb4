-- SPDX-License-Identifier: Apache-2.0

local history = require 'neap.policy.history'

local RANKS, EXPERTS, KEEP = 3, 5, 4

--- Loads of steps 0, 1, …; independent of history.lua's arithmetic.
local function matrix(step)
  local m = {}
  for i = 0, RANKS * EXPERTS - 1 do m[i] = (step * 31 + i * 17) % 23 end
  return m
end

local function sum_of(steps)
  local m = {}
  for i = 0, RANKS * EXPERTS - 1 do
    m[i] = 0
    for _, step in ipairs(steps) do m[i] = m[i] + matrix(step)[i] end
  end
  return m
end

local function equal(expected, load, scale)
  for i = 0, RANKS * EXPERTS - 1 do
    assert.is_true(math.abs(expected[i] * (scale or 1) - load.ptr[i]) < 1e-12)
  end
end

local function filled(steps)
  local h = history.open(RANKS, EXPERTS, KEEP)
  for step = 0, steps - 1 do h:push(matrix(step)) end
  return h
end

describe('history', function()
  it('keeps the newest loads and no more', function()
    local h = filled(11)
    assert.are.equal(KEEP, h:len())
    for i = 1, KEEP do equal(matrix(11 - i), h:last(i)) end
    equal(matrix(10), h:last())
    assert.has_error(function() h:last(KEEP + 1) end)
    assert.has_error(function() h:last(0) end)
  end)

  it('sums and averages over what is there', function()
    local h = filled(3)
    assert.are.equal(3, h:len())
    equal(sum_of { 1, 2 }, h:sum(2))
    equal(sum_of { 0, 1, 2 }, h:sum(9))
    equal(sum_of { 0, 1, 2 }, h:mean(9), 1 / 3)
    equal(sum_of { 1, 2 }, h:mean(2), 1 / 2)
    equal(sum_of { 7, 8, 9, 10 }, filled(11):sum())
    assert.has_error(function() h:sum(0) end)
    assert.has_error(function() h:mean 'all' end)
  end)

  it('hands out copies', function()
    local h = filled(2)
    h:last().ptr[0] = 1000
    h:sum(1).ptr[0] = 1000
    h:mean(1).ptr[0] = 1000
    equal(matrix(1), h:last())
  end)

  it('takes integers of 64 bits as they come from the engine', function()
    local load = require('ffi').new('int64_t[?]', RANKS * EXPERTS)
    for i = 0, RANKS * EXPERTS - 1 do load[i] = matrix(4)[i] end
    local h = history.open(RANKS, EXPERTS, KEEP)
    h:push(load)
    equal(matrix(4), h:last())
  end)
end)

describe('a load', function()
  it('adds up by expert and by rank', function()
    local load, m = history.load(RANKS, EXPERTS):set(matrix(2)), matrix(2)
    local total = 0
    for e = 0, EXPERTS - 1 do
      local sum = 0
      for r = 0, RANKS - 1 do sum = sum + m[r * EXPERTS + e] end
      assert.are.equal(sum, load:by_expert()[e])
      total = total + sum
    end
    for r = 0, RANKS - 1 do
      local sum = 0
      for e = 0, EXPERTS - 1 do sum = sum + m[r * EXPERTS + e] end
      assert.are.equal(sum, load:by_rank()[r])
    end
    assert.are.equal(total, load:total())
    assert.are.equal(m[7], load:at(1, 2))
    assert.has_error(function() load:at(RANKS, 0) end)
    assert.has_error(function() load:at(0, 'x') end)
  end)

  it('mixes', function()
    local a, b = history.load(RANKS, EXPERTS):set(matrix(1)), history.load(RANKS, EXPERTS)
    b:set(matrix(2))
    local mixed = a:mix(b, 0.25)
    for i = 0, RANKS * EXPERTS - 1 do
      assert.are.equal(0.75 * a.ptr[i] + 0.25 * b.ptr[i], mixed.ptr[i])
    end
  end)
end)

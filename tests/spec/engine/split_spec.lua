-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local layout = require 'neap.engine.layout'
local split = require 'neap.engine.split'
local topology = require 'neap.engine.topology'

local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return tostring(err)
end

--- C array as a list of numbers.
local function list(array, count)
  local out = {}
  for i = 1, count do out[i] = tonumber(array[i - 1]) end
  return out
end

describe('split', function()
  -- Two nodes of two ranks, one slot each: expert 0 on ranks 0, 1 and 2, expert 1 on rank 3.
  local t = topology.open { ranks = 4, node_size = 2, slots = 1, experts = 2 }
  local l = layout.open(t):set { 0, 0, 0, 1 }
  local LOAD = { { 6, 2 }, { 7, 1 }, { 4, 4 }, { 1, 7 } }

  it('knows its rules', function()
    assert.are.same({ 'lite', 'even', 'local', 'minimax' }, split.rules())
  end)

  it('lite: the source\'s node first', function()
    local s = split.open(t, 'lite'):compute(l, LOAD)
    assert.are.same({ 3, 3, 0, 2 }, list(s:row(0), 4))
    assert.are.same({ 0, 0, 4, 4 }, list(s:row(2), 4))
    assert.are.same({ 2, 1, 4, 7 }, list(s:column(3), 4))
    local b = s:balance()
    assert.are.equal(32, b.tokens)
    assert.are.equal(3, b.inter_node)
    assert.are.equal(14 / 8, b.imbalance)
  end)

  it('even: all replicas alike', function()
    local s = split.open(t, 'even'):compute(l, LOAD)
    assert.are.same({ 2, 2, 2, 2 }, list(s:row(0), 4))
    assert.are.same({ 2, 3, 2, 1 }, list(s:row(1), 4))
  end)

  it('minimax: no more than the busiest set of experts forces', function()
    local s = split.open(t, 'minimax'):compute(l, LOAD)
    assert.are.equal(14, tonumber(s:slot_tokens()[3]))
    assert.are.equal(14, s:balance().max_work)
  end)

  it('takes C arrays and a split of one\'s own', function()
    local load = lib.ffi.new('int64_t[8]', 6, 2, 7, 1, 4, 4, 1, 7)
    local amount = { { 6, 0, 0, 2 }, { 0, 7, 0, 1 }, { 0, 0, 4, 4 }, { 0, 0, 1, 7 } }
    local s = split.open(t, 'lite'):set(l, load, amount)
    assert.are.same(amount[2], list(s:row(1), 4))
    assert.are.equal(8, s:balance().remote)
  end)

  it('says what is wrong', function()
    assert.matches("split_spec.lua:%d+: split: no rule is called 'minmax' %(did you mean 'minimax'",
      message(function() l = split.open(t, 'minmax') end))
    local s = split.open(t, 'lite')
    assert.matches('nothing has been computed', message(s.row, s, 0))
    assert.matches('1.5; it must be a whole number',
      message(s.compute, s, l, { { 1.5, 2 }, { 7, 1 }, { 4, 4 }, { 1, 7 } }))
    assert.matches('rank 1 has %-7 tokens for expert 0',
      message(s.compute, s, l, { { 6, 2 }, { -7, 1 }, { 4, 4 }, { 1, 7 } }))
    assert.matches('rank 0 sends 5 tokens of expert 0 to its 3 slots .* the load is 6',
      message(s.set, s, l, LOAD,
        { { 5, 0, 0, 2 }, { 0, 7, 0, 1 }, { 0, 0, 4, 4 }, { 0, 0, 1, 7 } }))
    s:compute(l, LOAD)
    assert.matches('no rank 4', message(s.column, s, 4))
  end)
end)

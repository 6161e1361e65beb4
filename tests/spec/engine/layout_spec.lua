-- SPDX-License-Identifier: Apache-2.0

local layout = require 'neap.engine.layout'
local lib = require 'neap.base.lib'
local topology = require 'neap.engine.topology'

local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe('layout', function()
  local t = topology.open { nodes = { 2, 1 }, slots = { 2, 2, 3 }, experts = 4 }
  local RANKS = { { 0, 1 }, { 2, 3 }, { 0, 2, 1 } }

  it('is set from lists by rank, one list, or a C array', function()
    local a, b, c = layout.open(t), layout.open(t), layout.open(t)
    a:set(RANKS)
    b:set { 0, 1, 2, 3, 0, 2, 1 }
    c:set(a:array())
    assert.are.same(RANKS, b:experts())
    assert.are.same(RANKS, c:experts())
    assert.are.equal(0, a:changed(b))
    assert.are.equal(a:hash(), c:hash())
    assert.matches('^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x$', a:hash())
  end)

  it('knows where experts are', function()
    local l = layout.open(t):set(RANKS)
    assert.are.equal(3, l:at(1, 1))
    assert.are.same({ { 0, 0 }, { 2, 0 } }, l:replicas(0))
    assert.are.same({ { 1, 1 } }, l:replicas(3))
    assert.matches('no slot 2 on rank 0', message(l.at, l, 0, 2))
    assert.matches('no expert 4', message(l.replicas, l, 4))
  end)

  it('counts changed slots, and copies', function()
    local a = layout.open(t):set(RANKS)
    local b = layout.open(t):set { { 0, 1 }, { 3, 2 }, { 0, 2, 3 } }
    assert.are.equal(3, a:changed(b))
    assert.are_not.equal(a:hash(), b:hash())
    assert.are.equal(0, b:copy(a):changed(a))
  end)

  it('is aligned with another one: what a rank has in both stays where it is', function()
    local random = require 'neap.engine.plan'.open('random', t)
    local nothing = lib.ffi.new('double[?]', t.ranks * t.experts)
    for seed = 1, 50 do
      local base, l = random:plan(nothing, nil, seed), random:plan(nothing, nil, 1000 + seed)
      if seed % 5 == 0 then -- some ranks with an expert twice
        l:set { { 1, 1 }, { seed % 4, 2 }, { 3, 0, 0 } }
        base:set { { 1, seed % 4 }, { 2, 2 }, { 0, 3, 0 } }
      end
      local before, arrived, most = l:experts(), 0, 0
      l:align(base)
      for rank, experts in ipairs(l:experts()) do
        local other, missing, first = base:experts()[rank], 0, t.first_slot[rank - 1]
        local count = {}
        for slot, e in ipairs(experts) do
          count[e] = (count[e] or 0) + 1
          local here, there = 0, 0
          for i = 1, #experts do
            here = here + (experts[i] == e and 1 or 0)
            there = there + (other[i] == e and 1 or 0)
          end
          if there == 0 and count[e] == 1 then missing = missing + 1 end
          if count[e] == 1 then -- as many copies stay as both have
            local stay = 0
            for i = 1, #experts do
              stay = stay + (experts[i] == e and other[i] == e and 1 or 0)
            end
            assert.are.equal(math.min(here, there), stay, ('seed %d slot %d'):format(seed,
              first + slot))
          end
        end
        table.sort(experts)
        table.sort(before[rank])
        assert.are.same(before[rank], experts)
        arrived, most = arrived + missing, math.max(most, missing)
      end
      local all, largest = l:arrivals(base)
      assert.are.same({ arrived, most }, { all, largest })
    end
  end)

  it('draws a line per node', function()
    local l = layout.open(t)
    assert.are.equal('node 0 | . . | . . |\nnode 1 | . . . |', tostring(l))
    assert.are.equal('node 0 | 0 1 | 2 3 |\nnode 1 | 0 2 1 |', tostring(l:set(RANKS)))
  end)

  it('refuses what is no layout, and stays as it was', function()
    local l = layout.open(t):set(RANKS)
    assert.matches('layout_spec.lua:%d+: layout: 6 experts in the list; there are 7 slots',
      message(function() l = l:set { 0, 1, 2, 3, 0, 2 } end))
    assert.matches('1 experts for rank 1; it has 2 slots',
      message(l.set, l, { { 0, 1 }, { 2 }, { 0, 2, 1 } }))
    assert.matches('slot 1 of rank 1 holds x; it must be an expert',
      message(l.set, l, { { 0, 1 }, { 2, 'x' }, { 0, 2, 1 } }))
    assert.matches('slot 0 of rank 2 holds expert 4; allowed are 0 to 3',
      message(l.set, l, { 0, 1, 2, 3, 4, 2, 1 }))
    assert.matches('expert 3 is in no slot', message(l.set, l, { 0, 1, 2, 2, 0, 2, 1 }))
    assert.matches('a string', message(l.set, l, 'best'))
    assert.are.same(RANKS, l:experts())
  end)

  it('outlives its topology, and is an error once closed', function()
    local small = topology.open { ranks = 1, slots = 1, experts = 1 }
    local l = layout.open(small):set { 0 }
    small:close()
    assert.are.equal(0, l:array()[0])
    l:close()
    assert.matches('closed object', message(function() return l:hash() end))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local names = require 'neap.runs.names'

--- Names of policies by their text and what they call themselves.
local function of(list)
  local rows = {}
  for i, entry in ipairs(list) do rows[i] = { policy = entry[1], name = entry[2] } end
  return names.of(rows)
end

describe('names of policies', function()
  it('are what they call themselves', function()
    assert.are.same({ 'laer', 'hot:window=3' }, of { { 'laer', 'laer' },
      { 'a/b/mine.lua:window=3', 'hot:window=3' } })
  end)

  it('are ends of paths where they have the same, as short as can be', function()
    assert.are.same({ 'hot', 'mine.lua' }, of { { 'hot', 'hot' }, { 'a/mine.lua', 'hot' } })
    assert.are.same({ 'x/hot.lua', 'y/hot.lua', 'laer' }, of { { 'a/x/hot.lua', 'hot' },
      { 'a/y/hot.lua', 'hot' }, { 'laer', 'laer' } })
    assert.are.same({ 'x/p/h.lua:w=1', 'y/p/h.lua:w=1' }, of { { 'x/p/h.lua:w=1', 'h:w=1' },
      { 'y/p/h.lua:w=1', 'h:w=1' } })
    assert.are.same({ 'h:w=1', 'h:w=2' }, of { { 'x/h.lua:w=1', 'h:w=1' },
      { 'x/h.lua:w=2', 'h:w=2' } })
    assert.are.same({ 'hot', 'hot' }, of { { 'hot', 'hot' }, { 'hot', 'hot' } }) -- two seeds
  end)

  it('are those of their files in rows of earlier versions', function()
    assert.are.same({ 'hot.lua+lite', 'laer' }, of { { 'a/hot.lua+lite' }, { 'laer' } })
  end)

  it('say what rows go by', function()
    assert.are.same({ 'a (known loads)', 'b (never in force)', 'c (in force: 37.5 %)' }, names.of {
      { policy = 'a', plans_on = 'known' }, { policy = 'b', in_force = 0 },
      { policy = 'c', in_force = 0.375 } })
    assert.are.same({ true, false, true }, { names.counts {}, names.counts { in_force = 0.9 },
      names.counts { in_force = 0.995 } })
    assert.are.same({ true, true, false }, { names.counts { fits = 'yes' },
      names.counts { fits = 'lean' }, names.counts { fits = 'no' } })
    assert.are.equal('a (does not fit)', names.of({ { policy = 'a', fits = 'no' } })[1])
  end)
end)

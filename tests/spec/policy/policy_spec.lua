-- SPDX-License-Identifier: Apache-2.0

local policy = require 'neap.policy'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local function fails(pattern, action, ...)
  local ok, err = pcall(action, ...)
  assert.is_false(ok)
  assert.matches(pattern, tostring(err))
  return err
end

describe('policy.define', function()
  it('refuses unknown fields and hooks with a hint', function()
    local err = fails("policy_spec.lua:%d+: unknown hook or field 'paln' %(did you mean 'plan'%?%)",
      function() policy.define { name = 'x', paln = function() end } end)
    assert.are.equal('USAGE', err.code)
    fails("unknown hook 'wehn' %(did you mean 'when'%?%)", function()
      local Hot = policy.define { name = 'hot' }
      function Hot:wehn() return self end
    end)
    fails('needs a name', policy.define, {})
    fails("'plan' is a number", policy.define, { name = 'x', plan = 3 })
  end)

  it('makes parameters fields of the object', function()
    local Hot = policy.define { name = 'hot', params = { window = { default = 5, doc = '' } } }
    assert.are.equal(5, policy.create(Hot, {}).window)
    assert.are.equal(7, policy.create(Hot, { window = '7' }).window)
    local err = fails("policy hot: unknown parameter 'windo' %(did you mean 'window'%?%)",
      policy.create, Hot, { windo = '7' })
    assert.are.equal('USAGE', err.code)
    fails('must be a number', policy.create, Hot, { window = 'wide' })
  end)
end)

describe('policy.resolve', function()
  it('finds shipped policies and files', function()
    assert.matches('experiments/policies/laer.lua$', policy.resolve('laer').file)
    assert.are.equal('tests/policies/slow.lua', policy.resolve('tests/policies/slow.lua').file)
    assert.is_nil(policy.resolve('laer').split)
  end)

  it('reads split and parameters', function()
    local selection = policy.resolve 'laer+even:window=3,no_pq=true'
    assert.are.equal('even', selection.split)
    assert.are.same({ window = '3', no_pq = 'true' }, selection.params)
    assert.are.same({ window = '3' }, policy.resolve('tests/policies/slow.lua:window=3').params)
    assert.are.equal('lite', policy.resolve('tests/policies/slow.lua+lite').split)
    local priced = policy.resolve 'laer+minimax:far_price=0.5,window=3'
    assert.are.equal(0.5, priced.far_price)
    assert.are.same({ window = '3' }, priced.params)
    assert.are.equal(math.huge, policy.resolve('neap:far_price=inf').far_price)
    assert.are.equal('cluster', policy.resolve('neap:far_price=cluster').far_price)
    fails("far_price is 'dear'; allowed are 0 to inf and cluster",
      policy.resolve, 'neap:far_price=dear')
  end)

  it('hints at misspelt names', function()
    local err = fails("unknown policy 'lear' %(did you mean 'laer'%?%)", policy.resolve, 'lear')
    assert.are.equal('USAGE', err.code)
    fails("unknown split 'minmax' %(did you mean 'minimax'%?%)", policy.resolve, 'laer+minmax')
    fails("'window' is no parameter", policy.resolve, 'laer:window')
    fails('no such policy file', policy.resolve, 'nowhere/mine.lua')
  end)
end)

describe('docs/policies.md', function()
  it('shows a policy that works', function()
    local input = assert(io.open 'docs/policies.md')
    local code = input:read '*a':match '```lua\n(.-)```'
    input:close()
    local path = os.tmpname()
    local out = assert(io.open(path, 'w'))
    out:write(code)
    out:close()
    local s = session.open { policy = path .. ':limit=1.01', layers = 1, wait = true,
      topology = topology.open { ranks = 3, slots = 2, experts = 4 } }
    os.remove(path)
    local load = require('ffi').new('int64_t[12]', { 1, 2, 3, 90, 0, 1, 2, 80, 3, 0, 1, 99 })
    local before = s:layout(0):hash()
    s:record(0, 0, load)
    s:advance(1)
    assert.are.equal(0, s:report().faults)
    assert.are_not.equal(before, s:layout(0):hash())
    s:close()
  end)
end)

describe('policy.load', function()
  local function with_file(text, action)
    local path = os.tmpname()
    local file = assert(io.open(path, 'w'))
    file:write(text)
    file:close()
    local ok, err = pcall(action, path)
    os.remove(path)
    if not ok then error(err, 0) end
  end

  it('tells what is wrong with a file', function()
    with_file('return 5', function(path)
      fails('must return what policy.define', policy.load, path)
    end)
    with_file('local x = = 1', function(path)
      local err = fails(':1: unexpected symbol', policy.load, path)
      assert.are.equal('POLICY', err.code)
    end)
    local text = "return require('neap.policy').define { name = 'x', split = 'minimx' }"
    with_file(text, function(path)
      fails("unknown split 'minimx' %(did you mean 'minimax'%?%)", policy.load, path)
    end)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local params = require 'neap.base.params'
local recipe = require 'neap.train.recipe'

local SPECS = {
  steps = { default = 5, min = 1, integer = true, doc = 'steps' },
  names = { default = { 'a', 'b' }, doc = 'names' },
  exact = { default = false, doc = 'exact' },
  some_name = { default = 'x', doc = 'text' },
}

describe('params', function()
  it('has the type of the default', function()
    local values = params.values(SPECS, { steps = '7', names = 'c', exact = 'true' })
    assert.are.equal(7, values.steps)
    assert.are.same({ 'c' }, values.names)
    assert.is_true(values.exact)
    assert.are.equal('x', values.some_name)
    local ok, err = pcall(params.values, SPECS, { names = '' })
    assert.is_false(ok)
    assert.matches('%-%-names is empty; it must have one value or more', err.message)
  end)

  it('has another default on another device', function()
    local specs = { exact = { default = true, on_cuda = false, doc = 'exact' } }
    assert.is_true(params.values(specs, {}).exact)
    assert.is_true(params.values(specs, {}, 'cpu').exact)
    assert.is_false(params.values(specs, {}, 'cuda').exact)
    assert.is_true(params.values(specs, { exact = 'true' }, 'cuda').exact)
  end)

  it('makes reading an undeclared parameter an error', function()
    assert.has_error(function() return params.values(SPECS, {}).stepz end,
      "unknown parameter 'stepz'")
  end)

  it('hints at a parameter that is close', function()
    local ok, err = pcall(params.values, SPECS, { stpes = '1' })
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.are.equal("unknown parameter 'stpes' (did you mean 'steps'?)", err.message)
  end)

  it('refuses declarations that make no sense', function()
    for message, specs in pairs {
      ["x: parameter 'a': needs a table"] = { a = 5 },
      ["x: parameter 'b': needs a table with a default"] = { b = { doc = 'nothing' } },
      ["unknown field 'defualt' %(did you mean 'default'%?%)"] =
        { a = { default = 1, defualt = 2 } },
      ["x: parameter 'c': on_cuda and default are of different types"] =
        { c = { default = 1, on_cuda = 'a' } },
      ["x: parameter 'a%-b'"] = { ['a-b'] = { default = 1 } },
    } do
      local ok, err = pcall(params.check, specs, 'x')
      assert.is_false(ok)
      assert.matches(message, err)
    end
  end)

  it('tells which option takes a value that this one does not', function()
    local specs = { experts = { default = 16, elsewhere = { resident = 'that is --shard-group' } } }
    local _, err = pcall(params.values, specs, { experts = 'resident' })
    assert.are.equal("--experts is 'resident'; it must be a number; that is --shard-group",
      err.message)
    _, err = pcall(params.values, specs, { experts = 'many' })
    assert.are.equal("--experts is 'many'; it must be a number", err.message)
  end)

  it('writes flags and names in one form', function()
    assert.are.same({ '--exact', '--no-exact', '--some-name=3', '--other_name=true', '-n' },
      params.normalize({ '--exact=true', '--exact=false', '--some_name=3', '--other_name=true',
        '-n' }, SPECS))
  end)
end)

describe('recipe', function()
  local function run() end

  it('has defaults', function()
    local r = recipe.define { name = 'x', run = run }
    assert.are.equal(1, r.ranks)
    assert.are.same({}, r.params)
  end)

  it('refuses unknown fields and wrong types', function()
    for message, definition in pairs {
      ["unknown field 'node_sise' %(did you mean 'node_size'%?%)"] =
        { name = 'x', run = run, node_sise = 4 },
      ['ranks is a string; it must be a number'] = { name = 'x', run = run, ranks = '8' },
      ['run is missing'] = { name = 'x' },
    } do
      local ok, err = pcall(recipe.define, definition)
      assert.is_false(ok)
      assert.matches(message, err)
    end
  end)
end)

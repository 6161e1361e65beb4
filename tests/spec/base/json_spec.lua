-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'

describe('json', function()
  it('keeps the given order and sorts the other keys', function()
    assert.are.equal('{"z":1,"a":[1,2],"b":{"c":null,"d":true}}',
      json.encode({ a = { 1, 2 }, z = 1, b = { d = true, c = 0 / 0 } }, { 'z' }))
  end)

  it('takes any name of a field, and numbers as names', function()
    assert.are.equal('{"n":5}', json.encode { n = 5 })
    assert.are.equal('{"a":{"m":2,"n":1e+300}}', json.encode { a = { n = 1e300, m = 2 } })
    assert.are.equal('{"0":7,"30":8}', json.encode { [0] = 7, [30] = 8 })
    assert.are.equal('[1,null,3]', json.encode { 1, nil, 3 })
    assert.are.equal('{"a":[],"b":{},"c":null}', json.encode { a = {},
      b = setmetatable({}, { __jsontype = 'object' }), c = json.null })
  end)

  it('says what cannot be told', function()
    for pattern, value in pairs { ['a function'] = { print }, ['in themselves'] = {},
      ['keys like boolean'] = { [true] = 1 } } do
      if pattern == 'in themselves' then value[1] = value end
      local ok, why = pcall(json.encode, value)
      assert.is_false(ok)
      assert.matches(pattern, why)
    end
  end)

  it('says why what holds itself cannot be packed, in few words', function()
    local value = {}
    value.itself = value
    local ok, why = pcall(json.pack, value)
    assert.is_false(ok)
    assert.is_truthy(why:find '… is nested too deeply, or in itself$', why)
    assert.is_true(#why < 100)
  end)

  it('refuses objects whose keys are no texts, and lists with keys', function()
    for _, text in ipairs { '{1,2}', '{[1]:2}', '["a":1]', '{"a":[{"b":1}:2]}' } do
      local value, _, why = json.decode(text)
      assert.is_nil(value, text)
      assert.is_truthy(why:find('key', 1, true), text)
    end
  end)
end)

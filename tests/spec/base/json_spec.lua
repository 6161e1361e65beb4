local json = require 'neap.base.json'

describe('json', function()
  it('keeps the given order and sorts the other keys', function()
    assert.are.equal('{"z":1,"a":[1,2],"b":{"c":null,"d":true}}',
      json.encode({ a = { 1, 2 }, z = 1, b = { d = true, c = 0 / 0 } }, { 'z' }))
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

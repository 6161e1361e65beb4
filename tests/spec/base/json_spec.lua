local json = require 'neap.base.json'

describe('json', function()
  it('keeps the given order and sorts the other keys', function()
    assert.are.equal('{"z":1,"a":[1,2],"b":{"c":null,"d":true}}',
      json.encode({ a = { 1, 2 }, z = 1, b = { d = true, c = 0 / 0 } }, { 'z' }))
  end)
end)

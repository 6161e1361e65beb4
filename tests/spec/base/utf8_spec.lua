-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'
local svg = require 'neap.draw.svg'
local utf8 = require 'neap.base.utf8'

local BAD = '\239\191\189'

describe('text that is no UTF-8', function()
  it('has each stray byte replaced, and nothing else', function()
    for text, clean in pairs {
      ['plain'] = 'plain', ['é–😀'] = 'é–😀', ['\195'] = BAD, ['a\255b'] = 'a' .. BAD .. 'b',
      ['\192\128'] = BAD .. BAD,                                    -- too long a form of NUL
      ['\237\160\128'] = BAD:rep(3),                                -- a surrogate
      ['\244\144\128\128'] = BAD:rep(4),                            -- past the last character
      ['\226\130é'] = BAD .. BAD .. 'é', ['\240\159\152\128\195'] = '😀' .. BAD,
      ['a\0\127'] = 'a\0\127',
    } do
      assert.are.equal(clean, utf8.clean(text))
    end
  end)

  it('is what Python takes for the same', function()
    local state, bytes = 1, {}
    for i = 1, 4000 do
      state = (state * 48271) % 2147483647
      bytes[i] = string.char(i % 3 == 0 and 128 + state % 64 or 100 + state % 150)
    end
    local clean = utf8.clean(table.concat(bytes))
    assert.are.equal(clean, utf8.clean(clean))
    local path = os.tmpname()
    local file = assert(io.open(path, 'wb'))
    file:write(clean)
    file:close()
    assert.are.equal(0, os.execute(("/usr/bin/python3 -c 'open(\"%s\", \"rb\").read().decode()'")
      :format(path)))
    os.remove(path)
  end)

  it('becomes valid JSON and SVG', function()
    local text = json.encode { ['k\255'] = 'v\128"' }
    assert.are.equal(('{"k%s":"v%s\\""}'):format(BAD, BAD), text)
    assert.are.equal('&lt;' .. BAD .. BAD .. '\t', svg.escape '<\27\200\t')
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local schedule = require 'neap.nn.schedule'

local function message(given)
  local ok, err = pcall(schedule.resolve, given)
  assert.is_false(ok)
  assert.are.equal('USAGE', err.code)
  return err.message
end

describe('schedule', function()
  it('has all fields, whatever is given', function()
    for _, given in ipairs { 'none', 'eager', 'laer', 'neap', {}, { 'laer' }, { chunks = 3 } } do
      local result = schedule.resolve(given)
      for name, field in pairs(schedule.fields) do
        assert.are.equal(type(field.default), type(result[name]), name)
      end
    end
  end)

  it('is the same as text and as a table', function()
    assert.are.same(schedule.resolve { 'laer', chunks = 2, keep = 4, hold_reduce = false },
      schedule.resolve 'laer:chunks=2,keep=4,hold_reduce=false')
    assert.are.same(schedule.resolve 'laer', schedule.resolve { hold_reduce = true })
    assert.are.equal('attention', schedule.resolve('none:unshard_at=attention').unshard_at)
  end)

  it('keeps the parameters of all layers that are under way', function()
    assert.are.equal(4, schedule.resolve({ unshard_ahead = 3 }).keep)
    assert.are.equal(5, schedule.resolve({ unshard_ahead = 3, keep = 5 }).keep)
  end)

  it('says what is wrong, with hints', function()
    assert.matches("'lear' is unknown %(did you mean 'laer'%?%); there are eager, laer, neap, none",
      message 'lear')
    assert.matches("unknown field 'chunk' %(did you mean 'chunks'%?%); there are chunks, ",
      message { 'laer', chunk = 2 })
    assert.matches("unknown field '2'", message { 'laer', 'none' })
    assert.matches('chunks is 0; it must be a whole number from 1 to 1024', message { chunks = 0 })
    assert.matches('chunks is 1.5', message { chunks = 1.5 })
    assert.matches('keep is a string; it must be a number', message { keep = '2' })
    assert.matches("keep is 'x'; it must be a number", message 'laer:keep=x')
    assert.matches("hold_reduce is 'yes'; there are false, true", message 'laer:hold_reduce=yes')
    assert.matches("'keep' in 'laer:keep'; a field is name=value", message 'laer:keep')
    assert.matches("'disptch' %(did you mean 'dispatch'%?%)", message { unshard_at = 'disptch' })
    assert.matches('it is a number; it must be a name or a table', message(3))
    assert.matches('both true', message { hold_reduce = true, wait_reduce = true })
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local text_table = require 'neap.base.text_table'

describe('durations', function()
  it('are told in units that fit', function()
    for seconds, text in pairs { [0.44] = '0.4 s', [12.34] = '12.3 s', [59.96] = '1 min 00 s',
      [125] = '2 min 05 s', [3599.6] = '1 h 00 min', [3600 * 3 + 1200] = '3 h 20 min',
      [86400 * 2 + 3600 * 4] = '2 d 04 h' } do
      assert.are.equal(text, text_table.duration(seconds))
    end
  end)
end)

describe('table', function()
  it('sets numbers to the right and text to the left', function()
    assert.are.equal(table.concat({
      'policy  imbalance  note',
      '------  ---------  ----',
      'static      1.719  é',
      'neap            1  -',
    }, '\n'), text_table.format({ 'policy', 'imbalance', 'note' },
      { { 'static', '1.719', 'é' }, { 'neap', 1, nil } }))
  end)

  it('formats without rows', function()
    assert.are.equal('a  b\n-  -', text_table.format({ 'a', 'b' }, {}))
  end)

  it('groups thousands and scales bytes', function()
    assert.are.equal('1,234,567', text_table.thousands(1234567))
    assert.are.equal('-123', text_table.thousands(-123))
    assert.are.equal('0', text_table.thousands(0))
    assert.are.equal('999 B', text_table.bytes(999))
    assert.are.equal('1.5 kB', text_table.bytes(1500))
    assert.are.equal('1 MB', text_table.bytes(999999))
    assert.are.equal('12.3 GB', text_table.bytes(12.3e9))
  end)
end)

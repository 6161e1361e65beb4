local text_table = require 'neap.base.text_table'

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

-- SPDX-License-Identifier: Apache-2.0

local grid = require 'neap.sweep.grid'

describe('grid', function()
  local function refused(word, pattern)
    local ok, err = pcall(grid.words, { word })
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.matches(pattern, err.message)
  end

  it('reads values, ranges, lists and policies with parameters', function()
    assert.are.same({
      seed = { 0, 1, 2, 3 }, rate = { 0.001, 5 }, text = { 'english', 'go@3' }, ffn = { { 64, 32 },
        { 128 } }, steps = { 10, 30, 50 }, trace = { '' }, exact = { 'true' },
      policies = { 'laer:window=3,no_even=true', 'static', 'laer+minimax' },
      mixed = { 1, 3, 4, 'x', '007', '0x10', '9007199254740993' },
    }, grid.words { 'seed=0..3', 'rate=1e-3,5', 'text=english,go@3', 'ffn={64,32},{128}',
      'steps=10..50:20', 'trace=', 'exact=true', '--mixed=1,3..4,x,007,0x10,9007199254740993',
      'policies=laer:window=3,no_even=true,static,laer+minimax' })
  end)

  it('combines them: seeds slowest, policies fastest', function()
    local cells = grid.cells { policies = { 'a', 'b' }, seed = { 0, 1 }, k = { 5 } }
    local texts = {}
    for i, cell in ipairs(cells) do
      local parts = {}
      for j, pair in ipairs(cell) do parts[j] = pair[1] .. pair[2] end
      texts[i] = table.concat(parts, ' ')
    end
    assert.are.same({ 'seed0 k5 policiesa', 'seed0 k5 policiesb', 'seed1 k5 policiesa',
      'seed1 k5 policiesb' }, texts)
    assert.are.same({ {} }, grid.cells {})
  end)

  it('refuses what makes no grid', function()
    refused('seed', 'is no axis')
    refused('seed=4..0', 'empty')
    refused('ffn={64', 'does not end')
    refused('ffn={64},{1,2', 'does not end')
    local ok, err = pcall(grid.words, { 'a=1', 'a=2' })
    assert.is_true(not ok and err.message:match 'twice' ~= nil)
    local big = {}
    for i = 1, 400 do big[i] = i end
    assert.is_false((pcall(grid.cells, { a = big, b = big })))
  end)
end)

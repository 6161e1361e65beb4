-- SPDX-License-Identifier: Apache-2.0

local sweep = require 'neap.sweep'

describe('a sweep file', function()
  local COMMANDS = { run = {}, replay = {} }

  local function refused(definition, pattern)
    local ok, err = pcall(sweep.define, 'x.lua', definition, COMMANDS)
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.matches(pattern, err.message)
  end

  it('has axes of lists, texts and single values', function()
    local found = sweep.define('x.lua', { script = 'x.lua', fixed = { steps = 3, ffn = { 1, 2 } },
      grid = { seed = '0..2', rate = 0.5, ffn = { { 64, 32 }, { 128 } }, exact = true } }, COMMANDS)
    assert.are.same({ seed = { 0, 1, 2 }, rate = { 0.5 }, ffn = { { 64, 32 }, { 128 } },
      exact = { true } }, found.axes)
  end)

  it('is refused where a name or a value can be none of a parameter', function()
    refused(5, 'must return a table')
    refused({ grid = { 5 } }, "grid has the name '1'")
    refused({ grid = { ['a b'] = 5 } }, "grid has the name 'a b'")
    refused({ grid = { seed = {} } }, 'grid.seed is no number')
    refused({ grid = { seed = { x = 1 } } }, 'grid.seed is no number')
    refused({ grid = { seed = { { { 1 } } } } }, 'grid.seed is no number')
    refused({ grid = { seed = print } }, 'grid.seed is no number')
    refused({ grid = { seed = 0 / 0 } }, 'grid.seed is no number')
    refused({ fixed = { steps = { x = 1 } } }, 'fixed.steps is no number')
    refused({ fixed = { 'steps' } }, "fixed has the name '1'")
    refused({ grids = {} }, "unknown field 'grids' %(did you mean 'grid'%?%)")
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local options = require 'neap.base.options'

local SPEC = {
  comm = { needed = true }, seed = { default = 0, min = 0, integer = true },
  share = { above = 0, max = 1 }, exact = { default = false }, ffn = { type = 'number table' },
  dtype = { default = 'f32', choices = { 'f32', 'f64' } },
}

describe('options', function()
  it('are a copy with the defaults', function()
    local given = { comm = 1, exact = true }
    local o = options.check(given, SPEC, 'x')
    assert.are.same({ comm = 1, seed = 0, exact = true, dtype = 'f32' }, o)
    assert.are.same({ comm = 1, exact = true }, given)
  end)

  it('are refused with name, value and range, where the caller was called', function()
    local function wrong(changes)
      local given = { comm = 1 }
      for name, value in pairs(changes) do given[name] = value ~= 'none' and value or nil end
      local function opens() return (options.check(given, SPEC, 'x')) end
      local ok, err = pcall(function()
        local result = opens()
        return result
      end)
      assert.is_false(ok)
      assert.are.equal('ARGUMENT', err.code)
      assert.matches('options_spec.lua:', err.where)
      return err.message
    end
    assert.are.equal("x: unknown option 'sede' (did you mean 'seed'?); there are comm, dtype, "
      .. 'exact, ffn, seed, share', wrong { sede = 1 })
    assert.matches("unknown option '1'", wrong { 'x' })
    assert.are.equal('x: comm is missing', wrong { comm = 'none' })
    assert.are.equal('x: seed is 1.5; it must be a whole number of at least 0',
      wrong { seed = 1.5 })
    assert.are.equal('x: seed is z; it must be a whole number of at least 0', wrong { seed = 'z' })
    assert.are.equal('x: share is 0; it must be a number above 0 and at most 1',
      wrong { share = 0 })
    assert.matches('share is nan', wrong { share = 0 / 0 })
    assert.are.equal('x: exact is a number; it must be a boolean', wrong { exact = 1 })
    assert.are.equal('x: ffn is a string; it must be a number or a table', wrong { ffn = '8' })
    assert.are.equal("x: dtype is 'f65' (did you mean 'f64'?); it must be one of f32, f64",
      wrong { dtype = 'f65' })
  end)

  it('are called as their owner calls them', function()
    assert.are.equal("mine.lua: unknown field 'other'; there are a",
      options.problem({ other = 1 }, { a = {} }, 'mine.lua', 'field'))
    assert.is_nil(options.problem({ a = 1 }, { a = {} }, 'mine.lua', 'field'))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local covering = require 'neap.base.covering'

--- Pairs of values of different factors that no row has.
local function uncovered(factors, rows)
  local missing = 0
  for f = 1, #factors do
    for g = f + 1, #factors do
      for _, a in ipairs(factors[f]) do
        for _, b in ipairs(factors[g]) do
          local found = false
          for _, row in ipairs(rows) do found = found or (row[f] == a and row[g] == b) end
          if not found then missing = missing + 1 end
        end
      end
    end
  end
  return missing
end

describe('covering', function()
  it('lets every two values meet, in few rows', function()
    for _, sizes in ipairs { { 17, 5, 7, 4, 5, 2, 2 }, { 3 }, { 2, 2 }, { 1, 6, 1, 5 },
      { 4, 4, 4, 4, 4 } } do
      local factors, all = {}, 1
      for f, size in ipairs(sizes) do
        factors[f] = {}
        for i = 1, size do factors[f][i] = ('%d.%d'):format(f, i) end
        all = all * size
      end
      local rows = covering.rows(factors)
      assert.are.equal(0, uncovered(factors, rows))
      table.sort(sizes, function(a, b) return a > b end)
      local least = sizes[1] * (sizes[2] or 1)
      assert.is_true(#rows <= math.max(1, 2 * least), #rows)
      for _, row in ipairs(rows) do assert.are.equal(#factors, #row) end
      assert.are.equal(all, #covering.product(factors))
    end
  end)

  it('gives the same rows every time', function()
    local factors = { { 'a', 'b', 'c' }, { true, false }, { 1, 2, 3, 4 } }
    assert.are.same(covering.rows(factors), covering.rows(factors))
  end)

  it('multiplies out', function()
    assert.are.same({ { 1, 'a' }, { 1, 'b' }, { 2, 'a' }, { 2, 'b' } },
      covering.product { { 1, 2 }, { 'a', 'b' } })
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- Fitting a machine to measured trainings.

local fit = require 'neap.calibrate.fit'

describe('fit', function()
  it('finds the numbers that explain what was measured', function()
    local function predict(v) return { v[1], v[1] + v[2], 2 * v[1] + v[2] / 9 } end
    local values = fit.solve({ 1, 1 }, predict, predict { 0.2, 7 })
    assert.is_true(math.abs(values[1] / 0.2 - 1) < 0.02)
    assert.is_true(math.abs(values[2] / 7 - 1) < 0.02)
  end)

  it('leaves alone what the measurements do not tell', function()
    local values = fit.solve({ 4, 9 }, function(v) return { v[1], 2 * v[1] } end, { 8, 16 })
    assert.is_true(math.abs(values[1] / 8 - 1) < 0.01)
    assert.are.equal(9, values[2])
  end)

  it('meets measurements that disagree halfway, in ratios', function()
    local values = fit.solve({ 1 }, function(v) return { v[1], v[1] } end, { 1, 4 })
    assert.is_true(math.abs(values[1] - 2) < 0.01)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local statistics = require 'neap.runs.statistics'

local C = lib.C

-- Noise of an A/A comparison: differences of two measurements of the same thing.
local NOISE = {
  normal = function(trial, i) return C.neap_random_normal(trial, 1, i) end,
  uniform = function(trial, i) return C.neap_random_uniform(trial, 2, i) - 0.5 end,
  lognormal = function(trial, i)
    return math.exp(C.neap_random_normal(trial, 3, i)) - math.exp(C.neap_random_normal(trial, 4, i))
  end,
}

describe('statistics', function()
  for name, noise in pairs(NOISE) do
    for _, count in ipairs { 5, 12 } do
      it(('A/A covers zero in 90 to 99 of 100 trials: %s, %d pairs'):format(name, count), function()
        local covered = 0
        for trial = 1, 100 do
          local differences = {}
          for i = 1, count do differences[i] = noise(1000 * count + trial, i) end
          local s = statistics.paired(differences)
          if s.low <= 0 and s.high >= 0 then covered = covered + 1 end
        end
        assert.is_true(covered >= 90 and covered <= 99, tostring(covered))
      end)
    end
  end

  it('agrees with the interval of Student for normal data', function()
    local values, sum, squares = {}, 0, 0
    for i = 1, 20 do
      values[i] = 3 + C.neap_random_normal(7, 7, i)
      sum, squares = sum + values[i], squares + values[i] ^ 2
    end
    local mean = sum / 20
    local half = 2.093 * math.sqrt((squares - 20 * mean ^ 2) / 19 / 20)
    local s = statistics.paired(values)
    assert.is_near(mean, s.mean, 1e-12)
    assert.is_near(mean - half, s.low, 0.1 * half)
    assert.is_near(mean + half, s.high, 0.1 * half)
    assert.are.same(s, statistics.paired(values))
    assert.is_false(s.noisy)
  end)

  it('takes equal values as certain, and one value as nothing', function()
    local s = statistics.paired { -0.25, -0.25, -0.25, -0.25, -0.25 }
    assert.are.same({ -0.25, -0.25, -0.25 }, { s.mean, s.low, s.high })
    assert.is_nil(statistics.paired({ 1 }).low)
  end)

  it('finds outliers and noise', function()
    assert.are.same({ 3 }, statistics.outliers { 1, 1.1, 9, 0.9, 1.05, 1 })
    assert.are.same({}, statistics.outliers { 1, 2, 3, 4, 5 })
    assert.is_true(statistics.paired({ 1, -1, 1.2, -0.9, 0.3 }).noisy)
  end)
end)

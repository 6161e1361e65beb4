-- SPDX-License-Identifier: Apache-2.0

--- The benchmark's workloads against their definitions: shares of every expert, within 5 standard
-- deviations of the binomial.
local workloads = require 'neap.engine.workloads'

local function open(name, changes)
  local options = { name = name, ranks = 3, experts = 64, top_k = 6, tokens = 2048, layers = 2,
    seed = 5 }
  for key, value in pairs(changes or {}) do options[key] = value end
  return workloads.open(options)
end

--- expected(e, t): probability that token t takes expert e.
local function check(w, step, expected)
  local load = w:load(step, 1)
  for rank = 0, w.ranks - 1 do
    local total = 0
    for e = 0, w.experts - 1 do
      local mean, variance = 0, 0
      for t = 0, w.tokens - 1 do
        local p = expected(e, t)
        mean, variance = mean + p, variance + p * (1 - p)
      end
      local count = tonumber(load[rank * w.experts + e])
      total = total + count
      assert.is_true(math.abs(count - mean) <= 5 * math.sqrt(variance) + 1e-6,
        ('%s step %d rank %d expert %d: %d, expected %.1f'):format(w.name, step, rank, e, count,
          mean))
    end
    assert.are.equal(w.tokens * w.top_k, total)
  end
end

local function hot(first, w, e)
  return (e - first) % w.experts < 16 and w.top_k / 16 or 0
end

describe('workloads', function()
  it('W0 takes experts in turn', function()
    check(open 'W0', 3, function(e, t) return (e - t * 6) % 64 < 6 and 1 or 0 end)
  end)

  it('W1, W2 and W6 have a hot quarter, which moves in W6', function()
    for _, name in ipairs { 'W1', 'W2', 'W6' } do
      for _, step in ipairs { 0, 2, 3, 13 } do
        local w = open(name)
        local first = name == 'W6' and math.floor(step / 3) * 16 % 64 or 0
        check(w, step, function(e, t) return t % 4 == 0 and 6 / 64 or hot(first, w, e) end)
      end
    end
    assert.are_not.equal(tonumber(open 'W1':load(0, 0)[0]), tonumber(open 'W2':load(0, 0)[0]))
  end)

  it('W3 has even-numbered experts, W5 the upper half', function()
    check(open 'W3', 1, function(e, t)
      return t % 4 == 0 and 6 / 64 or e % 2 == 0 and 6 / 32 or 0
    end)
    check(open 'W5', 1, function(e) return e >= 32 and 6 / 32 or 0 end)
  end)

  it('W7 bursts in every fourth step', function()
    for step = 0, 7 do
      local w = open 'W7'
      check(w, step, function(e, t)
        return step % 4 == 3 and t % 2 == 0 and hot(0, w, e) or 6 / 64
      end)
    end
  end)

  it('W4 gives ranks unequal numbers of tokens', function()
    local w = open 'W4'
    local load = w:load(0, 0)
    for rank, tokens in ipairs { 1024, 2048, 3072 } do
      local total = 0
      for e = 0, 63 do total = total + tonumber(load[(rank - 1) * 64 + e]) end
      assert.are.equal(tokens * 6, total)
    end
  end)

  it('takes an expert at most once per token', function()
    for _, name in ipairs(workloads.NAMES) do
      local w = open(name, { experts = 7, top_k = 7, tokens = 100, ranks = 1 })
      local load = w:load(3, 0)
      for e = 0, 6 do
        assert.are.equal(100, tonumber(load[e]), name .. ' expert ' .. e)
      end
    end
  end)

  it('refuses what there is not', function()
    assert.has_error(function() open 'W8' end)
    assert.has_error(function() open('W1', { top_k = 65 }) end)
    assert.has_error(function() open('W1', { tokens = -1 }) end)
  end)
end)

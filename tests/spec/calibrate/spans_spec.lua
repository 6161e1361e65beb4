-- SPDX-License-Identifier: Apache-2.0

-- What calibration makes of spans: factors, and interference found again in steps that were
-- simulated with a known one.

local breakdown = require 'neap.profile.breakdown'
local clusters = require 'neap.simulate.cluster'
local measure = require 'neap.calibrate.measure'
local models = require 'neap.simulate.models'
local op_cost = require 'neap.simulate.op_cost'
local simulate = require 'neap.simulate'
local simulated_spans = require 'neap.simulate.timeline'
local spans = require 'neap.calibrate.spans'

local MODEL = { hidden = 1024, ffn = 2048, experts = 16, top_k = 2, slots = 8, layers = 6,
  heads = 16, kv_heads = 16, sequence = 2048, vocabulary = 32000, tokens = 8192, micro_batches = 1,
  recompute = false, load = { sigma = 0.3, tau = 0.1, rho = 0.99 } }

--- Spans of a step on two H200 with fields changed.
local function step(schedule, changes)
  local s = simulate.open { cluster = clusters.describe('h200x2', changes),
    model = models.describe(MODEL), policy = 'minimax', schedule = schedule, gradient_bytes = 4,
    dense_last = true }
  s:step()
  local ranks = simulated_spans.of(s.cluster)
  s:close()
  return { ranks = ranks, spans = spans.of { breakdown.summary(ranks) } }
end

describe('factors of spans', function()
  it('are measured over predicted seconds of all trainings together', function()
    local factors = spans.factors({ { attention = 3, expert = 1 }, { attention = 1, wait = 5 } },
      { { attention = 1, expert = 2 }, { attention = 1 } })
    assert.same({ attention = 2, expert = 0.5 }, factors)
  end)

  it('make a machine predict what it was measured on, span by span', function()
    local known = clusters.describe('h200x2').spans
    local measured = step('none', {}).spans
    local plain = step('none', { spans = { unshard = 1 } }).spans
    local factors = spans.factors({ measured }, { plain })
    for _, title in ipairs(op_cost.spans) do
      if plain[title] then assert.is_near(known[title] or 1, factors[title], 1e-6, title) end
    end
    local again = step('none', { spans = factors }).spans
    for title, seconds in pairs(measured) do
      assert.is_near(seconds, again[title], 1e-9 * seconds + 1e-12, title)
    end
  end)
end)

describe('interference', function()
  it('is found again in steps with and without overlap', function()
    for _, share in ipairs { { unshard = 0.5, reduce = 0.25 }, { unshard = 2, reduce = 0.1 } } do
      local changes = { interference = { compute = share } }
      local got = spans.interference(step('none', changes), step('neap', changes),
        20e-6).compute
      for stream, value in pairs(share) do
        assert.is_true(math.abs(got[stream] - value) < 0.1 * value + 0.02,
          ('%s: %g of %g'):format(stream, got[stream], value))
      end
    end
    local none = spans.interference(step('none', { interference = {} }),
      step('neap', { interference = {} }), 20e-6).compute
    assert.same({}, none)
  end)
end)

describe('a machine as text', function()
  it('is the machine again', function()
    local machine = clusters.describe 'h200x2'
    assert.same(machine, assert(loadstring(measure.text(machine)))())
  end)
end)

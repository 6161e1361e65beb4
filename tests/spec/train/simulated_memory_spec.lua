-- SPDX-License-Identifier: Apache-2.0

-- Memory of a simulated step: the engine's is --dry-run's, the lean one by a formula of its own.

local clusters = require 'neap.simulate.cluster'
local memory = require 'neap.train.simulated_memory'
local memory_estimate = require 'neap.train.memory_estimate'
local models = require 'neap.simulate.models'
local options = require 'neap.simulate.options'

local function take(changes, o)
  local all = { cluster = 'a100x32', model = models.describe('mixtral-8x7b-e16k4', changes) }
  for name, value in pairs(o or {}) do all[name] = value end
  return options.take(all)
end

local E = 3 * 4096 * 7168                                        -- an expert
local DENSE = 4096 * 4096 * 2.5 + 4096 * 16                      -- a layer without its experts
local ALL = 24 * DENSE + 2 * 4096 * 32000                        -- all without experts
local T = 16384 * 4096                                           -- numbers of a rank's tokens

local function kind(m, name)
  for _, k in ipairs(m.kinds) do
    if k.kind == name then return k.lean end
  end
end

describe('memory of a simulated step', function()
  it("is the engine's as --dry-run tells it", function()
    local m = memory.of(take({}, { schedule = 'neap:recompute=true' }), 1)
    local p = { layers = 24, hidden = 4096, heads = 32, kv_heads = 8, experts = 16, top_k = 4,
      ffn = { 7168 }, slots = 4, vocabulary = 32000, dtype = 'bf16', sequence = 8192, batch = 64,
      schedule = 'neap:recompute=true', shard_group = 'all', ep = 0 }
    local known = memory_estimate.training(p, { ranks = 32, node_size = 8, device = 'cuda' })
    assert.are.equal(known.rank, m.engine)
    assert.are.equal(80e9, m.capacity)
  end)

  it('of a lean program is what the order of work needs', function()
    local m = memory.of(take({}), 1)
    assert.is_near(2 * (24 * 16 * E / 32 + ALL / 32 + 2 * DENSE), kind(m, 'parameters'), 1)
    assert.is_near(12 * (24 * 16 * E + ALL) / 32, kind(m, 'masters and moments'), 1)
    assert.is_near(2 * 2 * 4 * E, kind(m, 'unshard buffers'), 1)
    assert.is_near(4 * (24 * 16 * E + ALL) / 32 + 2 * 2 * 4 * E + 2 * 2 * DENSE,
      kind(m, 'gradients'), 1)
    -- inputs of all layers; of one its rows, gate, up and hidden values, attention, rows on the way
    local layer = 4 * T + 4 * 16384 * 3 * 7168 + 5.5 * T + 2 * 4 * T
    assert.is_near(2 * (24 * T + 4 * T + layer), kind(m, 'activations'), 1)
    local sum = 0
    for _, k in ipairs(m.kinds) do sum = sum + k.lean end
    assert.is_near(sum, m.lean, 1)
  end)

  it('grows with what is kept, and with the fullest rank', function()
    local again, kept = memory.of(take({}), 1), memory.of(take({ recompute = false }), 1)
    local travelled = memory.of(take({}, { schedule = 'laer:recompute=true' }), 1)
    -- what travelled is kept of 24 layers, and not of the one under way
    assert.is_near(2 * 23 * 4 * T, travelled.lean - again.lean, 1)
    assert.is_near(2 * 23 * (4 * T + 4 * 16384 * 3 * 7168 + 5.5 * T), kept.lean - again.lean, 1)
    local full = memory.of(take({}), 2)
    assert.is_near(2 * (3 * 4 * T + 4 * 16384 * 3 * 7168), full.lean - again.lean, 1)
    assert.are.equal(again.engine, full.engine)
  end)

  it('of resident experts has them whole, and buffers for others alone', function()
    local m = memory.of(take({}, { shard_group = 'resident', ep = 8 }), 1)
    assert.is_near(2 * (24 * 2 * E + ALL / 32 + 2 * DENSE), kind(m, 'parameters'), 1)
    assert.is_near(2 * 2 * 2 * E, kind(m, 'unshard buffers'), 1)
    assert.is_near(4 * (24 * 2 * E + ALL / 32) + 2 * 2 * 2 * E + 2 * 2 * DENSE,
      kind(m, 'gradients'), 1)
  end)

  it('cuts parameters over no more ranks than there are', function()
    local four = take({ slots = 4 }, { cluster = clusters.describe('a100x8', { ranks = 4 }),
      shard_group = 'node' })
    assert.is_near(2 * (24 * 16 * E / 4 + ALL / 4 + 2 * DENSE),
      kind(memory.of(four, 1), 'parameters'), 1)
  end)

  it('says what fits', function()
    local small = { layers = 2, tokens = 1024, vocabulary = 1000 }
    assert.are.equal('yes', memory.of(take(small), 1).fits)
    assert.are.equal('lean', memory.of(take({}), 1).fits)
    assert.are.equal('no', memory.of(take({ recompute = false }), 1).fits)
    local odd = memory.of(take { bytes = 1 }, 1)
    assert.is_nil(odd.engine)
    assert.are.equal('yes', odd.fits)
  end)
end)

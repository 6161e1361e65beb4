-- SPDX-License-Identifier: Apache-2.0

-- Which way of keeping experts is fastest where: against simulations that are opened one by one.

local crossover = require 'neap.sweep.crossover'
local clusters = require 'neap.simulate.cluster'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'

local MODEL = { hidden = 256, ffn = 512, experts = 8, top_k = 4, slots = 2, layers = 12, heads = 4,
  kv_heads = 4, sequence = 128, vocabulary = 1000, tokens = 256, micro_batches = 1,
  recompute = false, dense_layers = 1 }

local function options(changes)
  local o = { machine = clusters.describe('h100x8', { node_size = 4 }),
    model = models.describe(MODEL), experts = { 8 }, tokens = { 256 }, keep = 'ffn',
    schedule = 'neap', routing = 'chosen', steps = 1, seed = 3, layers = 2 }
  for name, value in pairs(changes or {}) do o[name] = value end
  return o
end

local function row_of(cell, system, degree)
  for _, row in ipairs(cell.rows) do
    if row.system == system and row.degree == degree then return row end
  end
end

describe('crossover', function()
  it('shares experts by what divides both', function()
    local m = clusters.describe('h100x8', { ranks = 24 })
    assert.are.same({ 1, 8 }, crossover.degrees(m, 64))
    assert.are.same({ 1, 3, 12 }, crossover.degrees(m, 12, { 3, 1, 12, 5 }))
    assert.are.same({ 1, 8, 24 }, crossover.degrees(m, 48))
    assert.are.same({}, crossover.degrees(m, 7, { 2 }))
  end)

  it('keeps what it is told to keep', function()
    local m = models.describe(MODEL)
    local more = crossover.model(m, 32, 'ffn')
    assert.are.same({ 32, 512, 4 }, { more.experts, more.ffn, more.top_k })
    assert.are.equal(2, crossover.model(m, 2, 'ffn').top_k)
    more = crossover.model(m, 32, 'parameters')
    assert.are.same({ 32, 128, 16 }, { more.experts, more.ffn, more.top_k })
    assert.is_nil(crossover.model(m, 3, 'parameters'))
    local unequal = models.describe(MODEL, { ffn = { 1, 2, 3, 4, 5, 6, 7, 8 } })
    assert.has_error(function() crossover.run(options { keep = 'parameters', model = unequal }) end)
  end)

  it('has the times of simulations, and the memory of all layers', function()
    local cell = crossover.run(options())[1]
    local function step_ms(changes)
      local o = { cluster = clusters.describe('h100x8', { node_size = 4 }), schedule = 'neap',
        seed = 3, distinct = 1, model = models.describe(MODEL, { layers = 2, dense_layers = 0 }) }
      for name, value in pairs(changes) do o[name] = value end
      local s = simulate.open(o)
      local row = s:run(1)
      s:close()
      return row.step_ms
    end
    assert.are.equal(step_ms { policy = 'static', shard_group = 'resident', ep = 4, slots = 2 },
      row_of(cell, 'resident', 4).step_ms)
    assert.are.equal(step_ms { policy = 'neap', slots = 2 }, row_of(cell, 'fsep', 4).step_ms)
    assert.are.equal(step_ms { policy = 'static', slots = 8 }, row_of(cell, 'fsep', 1).step_ms)
    assert.are.equal(step_ms { policy = 'moonep:on=current', shard_group = 'resident', ep = 4,
      slots = 3 }, row_of(cell, 'late', 4).step_ms)
    assert.is_nil(row_of(cell, 'late', 1))
    local expert = 3 * 256 * 512
    local deep = crossover.run(options { model = models.describe(MODEL, { layers = 22 }) })[1]
    local more = row_of(deep, 'resident', 8).memory.lean - row_of(cell, 'resident', 8).memory.lean
    assert.is_true(more > 10 * (2 + 12 + 4) * expert) -- each layer's: value, state, gradient
    assert.are.equal(row_of(cell, 'fsep', 8).step_ms, row_of(deep, 'fsep', 8).step_ms)
  end)

  it('tells the fastest of what fits, and its lead', function()
    local cell = crossover.run(options())[1]
    local best, next_best = math.huge, math.huge
    for _, system in ipairs(crossover.systems) do
      local least = math.huge
      for _, row in ipairs(cell.rows) do
        if row.system == system.name then least = math.min(least, row.step_ms) end
      end
      assert.are.equal(least, cell.best[system.name].step_ms)
      best, next_best = math.min(best, least), math.min(math.max(best, least), next_best)
    end
    assert.are.equal(best, cell.best[cell.winner].step_ms)
    assert.is_near(next_best / best - 1, cell.lead, 1e-12)
    local tight = clusters.describe('h100x8', { node_size = 4, capacity = 1e6 })
    cell = crossover.run(options { machine = tight })[1]
    assert.is_nil(cell.winner)
    assert.are.same({}, cell.best)
    for _, row in ipairs(cell.rows) do assert.are.equal('no', row.fits) end
  end)

  it('asks for cells without an answer, too', function()
    local told = {}
    local cells = crossover.run(options { experts = { 7, 8 }, tokens = { 64, 256 },
      degrees = { 4 }, progress = function(done) told[#told + 1] = done end })
    assert.are.equal(4, #cells)
    assert.are.same({ 1, 2, 3, 4 }, told)
    assert.are.same({ 0, 0 }, { #cells[1].rows, #cells[2].rows })
    assert.is_nil(cells[1].winner)
    assert.are.same({ 8, 64 }, { cells[3].experts, cells[3].tokens })
  end)
end)

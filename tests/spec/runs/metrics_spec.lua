-- SPDX-License-Identifier: Apache-2.0

local metrics = require 'neap.runs.metrics'

--- A row with every metric at its path: the i-th of the list is i.
local function numbered()
  local values = {}
  for i, metric in ipairs(metrics.list) do values[metric.name] = i end
  return metrics.nest(values), values
end

describe('the registry of metrics', function()
  it('has records that are whole, each name once', function()
    local seen = {}
    for _, metric in ipairs(metrics.list) do
      assert.is_nil(seen[metric.name], metric.name)
      seen[metric.name] = true
      assert.is_string(metric.title)
      assert.is_true(#metric.doc > 8, metric.name)
      assert.is_true(metric.better == 'lower' or metric.better == 'higher', metric.name)
      assert.is_true(#metrics.show(metric, 0.5) > 0)
      assert.is_true(not metric.curve or metric.stored, metric.name)
    end
  end)

  it('reads rows as it nests values', function()
    local row, values = numbered()
    assert.are.same(values, metrics.values(row))
    assert.are.equal(values.imbalance, row.imbalance.mean)
    assert.are.equal(values.bytes_reduce, row.bytes_per_step.reduce)
    assert.are.same({ step = 3 }, metrics.nest { step = 3 })
    assert.are.same({}, metrics.values { imbalance = 3, loss = 'high' })
  end)

  it('knows names, earlier ones too', function()
    assert.are.equal('step_ms', metrics.find('step_seconds').name)
    local ok, err = pcall(metrics.find, 'exposd')
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.matches("did you mean 'exposed'", err.message)
    assert.is_false((pcall(metrics.find, 'seconds'))) -- of steps alone
  end)

  it('completes rows, once: shares and bits', function()
    local row = { step_ms = 8, ideal_ms = 6, imbalance = { mean = 2 } }
    assert.are.equal(row, metrics.complete(row))
    assert.are.equal(0.75, row.share_of_ideal)
    assert.are.equal(0.5, metrics.complete { imbalance = { mean = 2 } }.share_of_ideal)
    assert.are.equal(2, metrics.complete({ loss = 2 * math.log(2) }).bits_per_byte)
    assert.are.equal(0.3, metrics.complete({ share_of_ideal = 0.3, imbalance = { mean = 2 } })
      .share_of_ideal)
    assert.is_nil(metrics.complete({}).share_of_ideal)
  end)

  it('completes rows whatever the order of the list', function()
    local first = { name = 'twice', path = { 'some', 'twice' },
      derive = function(row) return row.lost and 2 * row.lost end }
    local second = { name = 'lost',
      derive = function(row) return row.share_of_ideal and 1 - row.share_of_ideal end }
    table.insert(metrics.list, 1, second)
    table.insert(metrics.list, 1, first)
    local ok, row = pcall(metrics.complete, { step_ms = 8, ideal_ms = 6 })
    table.remove(metrics.list, 1)
    table.remove(metrics.list, 1)
    assert.is_true(ok, row)
    assert.are.same({ 0.75, 0.25, 0.5 }, { row.share_of_ideal, row.lost, row.some.twice })
  end)

  it('reads rows of earlier versions', function()
    local spread = { mean = 1.5, p50 = 1.4, p95 = 1.9, max = 2 }
    local row = metrics.upgrade { imbalance = 1.5, spread = spread, step_seconds = 0.25 }
    assert.are.same({ spread, 250, 1 / 1.5 }, { row.imbalance, row.step_ms, row.share_of_ideal })
    assert.are.same({}, { row.spread, row.step_seconds })
    row = metrics.upgrade { imbalance = 2 }
    assert.are.same({ mean = 2 }, row.imbalance)
    assert.are.equal(0.5, row.share_of_ideal)
  end)

  it('makes tables: what is measured, with the ideal last', function()
    local heading, lines = metrics.cells('simulate', {
      { policy = 'a', step_ms = 10, ideal_ms = 5, exposed = 0.25, faults = 0 },
      { policy = 'b', step_ms = 7.5, ideal_ms = 4, exposed = 0.5, imbalance = { mean = 1.5 } },
    })
    assert.are.same({ 'policy', 'step ms', 'imbalance', 'exposed %', 'faults' }, heading)
    assert.are.same({ { 'a', '10.00', false, '25.0', '0' },
      { 'b', '7.50', '1.5000', '50.0', false },
      { 'ideal', '4.00', '1.0000', '0.0', false } }, lines)
  end)

  it('keeps a metric out of the tables that it is not for', function()
    local _, values = numbered()
    local function names(table_name)
      local found = {}
      for _, metric in ipairs(metrics.shown(table_name, { values })) do
        found[metric.name] = true
      end
      return found
    end
    assert.is_true(names 'replay'.imbalance_p50)
    assert.is_nil(names 'run'.imbalance_p50)
    assert.is_nil(names 'report'.seconds)
  end)

  it('has curves of what all steps have', function()
    local curves = metrics.curves({ { loss = 2, exposed = 0.1 }, { loss = 1 } }, 5)
    assert.are.same({ loss = { values = { 2, 1 }, first = 5 } }, curves)
  end)
end)

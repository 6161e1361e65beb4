-- SPDX-License-Identifier: Apache-2.0

local series = require 'neap.base.series'

describe('series', function()
  it('gives mean, quantiles and recent mean of a series', function()
    local values = series.open()
    for _, value in ipairs { 4, 1, 3, 2 } do values:add(value) end
    assert.are.equal(2.5, values:mean())
    assert.are.equal(2.5, values:quantile(0.5))
    assert.are.equal(4, values:quantile(1))
    assert.are.equal(1, values:quantile(0))
    assert.are.equal(2.5, values:recent(2))
  end)

  it('is zero, not nan, when empty', function()
    local values = series.open()
    assert.are.equal(0, values:mean())
    assert.are.equal(0, values:quantile(0.95))
    assert.are.equal(0, series.balance():summary().inter_node_share)
  end)

  it('weighs the inter-node share by tokens and the imbalance by layers', function()
    local balance = series.balance()
    balance:add { imbalance = 1, std_percent = 0, tokens = 100, inter_node = 0, remote = 0 }
    balance:add { imbalance = 2, std_percent = 10, tokens = 300, inter_node = 100, remote = 200 }
    local summary = balance:summary()
    assert.are.equal(1.5, summary.imbalance.mean)
    assert.are.equal(0.25, summary.inter_node_share)
    assert.are.equal(5, summary.std_percent)
  end)
end)

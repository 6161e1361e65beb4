local metrics = require 'neap.base.series'

describe('metrics', function()
  it('gives mean, quantiles and recent mean of a series', function()
    local series = metrics.series()
    for _, value in ipairs { 4, 1, 3, 2 } do series:add(value) end
    assert.are.equal(2.5, series:mean())
    assert.are.equal(2.5, series:quantile(0.5))
    assert.are.equal(4, series:quantile(1))
    assert.are.equal(1, series:quantile(0))
    assert.are.equal(2.5, series:recent(2))
  end)

  it('is zero, not nan, when empty', function()
    local series = metrics.series()
    assert.are.equal(0, series:mean())
    assert.are.equal(0, series:quantile(0.95))
    assert.are.equal(0, metrics.balance():summary().inter_node_share)
  end)

  it('weighs the inter-node share by tokens and the imbalance by layers', function()
    local balance = metrics.balance()
    balance:add { imbalance = 1, std_percent = 0, tokens = 100, inter_node = 0, remote = 0 }
    balance:add { imbalance = 2, std_percent = 10, tokens = 300, inter_node = 100, remote = 200 }
    local summary = balance:summary()
    assert.are.equal(1.5, summary.imbalance.mean)
    assert.are.equal(0.25, summary.inter_node_share)
    assert.are.equal(5, summary.std_percent)
  end)
end)

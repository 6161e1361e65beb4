-- SPDX-License-Identifier: Apache-2.0

-- What work across nodes costs: as long as links take, over as long as experts take; nothing where
-- there is one node; more where links are busy. far_price=cluster, and who may ask for it.

local clusters = require 'neap.simulate.cluster'
local far_price = require 'neap.simulate.far_price'
local replay = require 'neap.replay'
local simulate = require 'neap.simulate'
local topologies = require 'neap.engine.topology'
local traces = require 'neap.engine.trace'

local MODEL = { hidden = 512, ffn = 1024, experts = 8, top_k = 2, slots = 2, layers = 2, heads = 8,
  kv_heads = 4, sequence = 512, tokens = 2048, micro_batches = 1, vocabulary = 1000 }

local function open(changes, options)
  local machine = { ranks = 8, node_size = 4 }
  for name, value in pairs(changes or {}) do machine[name] = value end
  local all = { cluster = clusters.describe('a100x8', machine), model = MODEL, policy = 'static',
    warm_up = 2 }
  for name, value in pairs(options or {}) do all[name] = value end
  return simulate.open(all)
end

local function price(changes, options)
  local s = open(changes, options)
  local value, _, each = far_price.of(s.cluster, s.step_cost, 1), s.step_cost.op_cost:expert_line(0)
  s:close()
  return value, each
end

describe('the price of work across nodes', function()
  it('is the time of links over that of experts, where nothing hides it', function()
    local serial = { shard_group = 'node', schedule = { 'none', hold_combine = true } }
    local quiet = { port = 1e15, uplink = 1e11, latency = 0, far_latency = 0, host = 0 }
    local value, each = price(quiet, serial)
    -- Forward, again, and back, which is two forwards: 6 exchanges over a fourth of a node's link.
    local links, experts = 6 * 512 * 2 * 4 / 1e11, 4 * each
    assert.is_near(links / experts, value, 0.02 * value)
    quiet.uplink = 2e11
    assert.is_near(value / 2, price(quiet, serial), 0.02 * value)
  end)

  it('is nothing on one node, and without bound where links are busy all the time', function()
    assert.are.equal(0, price { node_size = 8 })
    assert.is_true(price { uplink = 1e6 } > 100)
    assert.is_true(price { uplink = 1e9 } > price { uplink = 1e10 })
  end)

  it('is what far_price=cluster means', function()
    local s = open({ uplink = 5e9 }, { policy = 'neap:far_price=cluster' })
    local value = far_price.of(s.cluster, s.step_cost, 1)
    assert.are.equal(value, s.session.far_price)
    local priced = s:run(2)
    s:close()
    local t = open({ uplink = 5e9 }, { policy = ('neap:far_price=%.17g'):format(value) })
    local given = t:run(2)
    t:close()
    assert.are.equal(given.step_ms, priced.step_ms)
    assert.are.equal(given.inter_node_share, priced.inter_node_share)
  end)

  it('is asked for in vain where no cluster is described', function()
    local t = traces.open 'experiments/traces/e8k2.safetensors'
    local topology = topologies.open { ranks = t.ranks, experts = t.experts, slots = 2,
      node_size = 8 }
    local ok, err = pcall(replay.score, { trace = t, topology = topology, in_process = true,
      policy = 'neap:far_price=cluster' })
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.matches('far_price=cluster is for neap simulate', err.message)
  end)
end)

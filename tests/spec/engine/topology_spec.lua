-- SPDX-License-Identifier: Apache-2.0

local topology = require 'neap.engine.topology'

--- The message of the error that f raises.
local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe('topology', function()
  it('cuts ranks into nodes of a size, the last one smaller', function()
    local t = topology.open { ranks = 7, node_size = 3, slots = 2, experts = 5 }
    assert.are.same({ 7, 3, 14, 5 }, { t.ranks, t.nodes, t.slots, t.experts })
    assert.are.same({ 0, 2 }, { t:ranks_of(0) })
    assert.are.same({ 6, 6 }, { t:ranks_of(2) })
    assert.are.equal(1, t:node_of(5))
    assert.are.equal('7 ranks in 3 nodes, 14 slots for 5 experts', tostring(t))
  end)

  it('takes nodes, slots, costs and speeds one by one', function()
    local t = topology.open {
      nodes = { 2, 1 }, slots = { 1, 2, 3 }, experts = 2, cost = { 1, 2.5 }, speed = { 1, 1, 0.5 },
    }
    assert.are.same({ 3, 2, 6 }, { t.ranks, t.nodes, t.slots })
    assert.are.same({ 2, 2.5, 0.5 }, { t:slots_of(1), t:cost(1), t:speed(2) })
  end)

  it('is one node by default', function()
    assert.are.equal(1, topology.open({ ranks = 5, slots = 1, experts = 5 }).nodes)
  end)

  it('says what is wrong', function()
    assert.matches("topology_spec.lua:%d+: topology: unknown field 'node_sise' %(did you mean "
      .. "'node_size'%?%)", message(function()
      local t = topology.open { node_sise = 1 }
      return t
    end))
    assert.matches('experts is missing', message(topology.open, { ranks = 1, slots = 1 }))
    assert.matches('ranks is 1.5', message(topology.open, { ranks = 1.5, slots = 1, experts = 1 }))
    assert.matches('9 experts do not fit into 8 slots',
      message(topology.open, { ranks = 4, slots = 2, experts = 9 }))
    assert.matches('slots of 2 ranks; there are 3',
      message(topology.open, { ranks = 3, slots = { 1, 1 }, experts = 1 }))
    assert.matches('cost of expert 0 is %-1',
      message(topology.open, { ranks = 1, slots = 1, experts = 1, cost = { -1 } }))
    assert.matches('nodes have 3 ranks together; ranks is 4',
      message(topology.open, { ranks = 4, nodes = { 2, 1 }, slots = 1, experts = 1 }))
    local t = topology.open { ranks = 2, slots = 1, experts = 2 }
    assert.matches('no rank 2; allowed are 0 to 1', message(t.node_of, t, 2))
  end)
end)

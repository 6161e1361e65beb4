-- SPDX-License-Identifier: Apache-2.0

--- neap bench moe over ranks: what it reports.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SIZES = ' --experts=5 --hidden=16 --ffn=12 --tokens=90 --repeats=2'

describe('neap bench moe --ranks', function()
  it('times a layer under each load and policy, and transfers alone', function()
    local status, out, err = program.run('bench moe --json --ranks=3 --policies=resident,laer'
      .. SIZES)
    assert.are.equal(0, status, err)
    local document = json.decode(out)
    assert.are.equal(3, document.ranks)
    local seen = {}
    for i, row in ipairs(document.rows) do
      seen[i] = ('%s %s %d'):format(row.load, row.policy, row.slots)
      assert.is_true(row.imbalance >= 1 and row.inter_rank > 0 and row.inter_rank < 1)
      for kind, times in pairs { forward = 1, backward = 2 } do
        local flops = times * 6 * 90 * 2 * 16 * 12
        local wanted = flops / row[kind .. '_ms'] / 1e9
        assert.is_true(math.abs(row[kind .. '_tflops'] / wanted - 1) < 1e-9)
        assert.is_true(row[kind .. '_low_ms'] <= row[kind .. '_ms'])
        assert.is_true(row[kind .. '_ms'] <= row[kind .. '_high_ms'])
      end
      assert.are.equal(row.policy ~= 'resident', row.unshard_ms ~= nil and row.reduce_ms ~= nil)
    end
    assert.are.same({ 'balanced resident 2', 'balanced laer 4', 'skewed resident 2',
      'skewed laer 4' }, seen)
    local skewed = document.rows[3].hottest
    local sum = 1 + 2 ^ -0.6 + 3 ^ -0.6 + 4 ^ -0.6 + 5 ^ -0.6
    assert.is_true(math.abs(skewed - 5 / sum) < 0.2, skewed)
  end)

  it('refuses planners that do not exist', function()
    local status, _, err = program.run('bench moe --ranks=2 --policies=nea' .. SIZES)
    assert.are.equal(2, status)
    assert.matches("no planner is called 'nea' %(did you mean 'neap'%?%)", err)
  end)
end)

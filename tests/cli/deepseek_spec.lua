-- SPDX-License-Identifier: Apache-2.0

--- experiments/deepseek_style.lua: one model, balanced in three ways, and what is left to policies.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'
local trace = require 'neap.engine.trace'

local SMALL = 'run experiments/deepseek_style.lua -n 2 --steps=8 --batch=2 --sequence=16 '
  .. '--layers=2 --hidden=16 --heads=2 --kv-heads=1 --experts=4 --top-k=2 --ffn=8 --slots=3 '
  .. '--text=english --policies=static,minimax --aux-loss=1 --bias-rate=0.05 '

describe('deepseek_style', function()
  it('trains one model three times, records the routings, and replays each', function()
    local base = os.tmpname()
    local status, out, err = program.run(('%s--trace=%s --json'):format(SMALL, base))
    assert.are.equal(0, status, err)
    local rows, digests = json.decode(out).rows, {}
    assert.are.equal(3, #rows)
    for i, way in ipairs { 'none', 'aux', 'bias' } do
      local row = rows[i]
      assert.are.equal(way, row.way)
      assert.are.equal(('%s-%s.safetensors'):format(base, way), row.trace)
      local t = trace.open(row.trace)
      assert.are.same({ 8, 1, 2, 4 }, { t.steps, t.layers, t.ranks, t.experts })
      assert.matches('dense_layers=1 scores=sigmoid shared_experts=1', t.metadata.model)
      t:close()
      os.remove(row.trace)
      assert.is_true(row.hottest >= 1 and row.loss > 1 and row.imbalance.minimax >= 1)
      assert.is_true(row.imbalance.static >= row.imbalance.minimax)
      digests[row.digest] = way
    end
    os.remove(base)
    assert.are.equal(3, #require('neap.base.lib').sorted_keys(digests))
  end)

  it('checks its options before it trains', function()
    for arguments, pattern in pairs {
      ['--ways=loss'] = "%-%-ways is 'loss'; allowed: none, aux, bias",
      ['--policies=laerr'] = 'laerr',
      ['--trace=/nowhere/x'] = '%-%-trace: /nowhere/x',
      ["--trace=''"] = '%-%-trace is empty',
      ['--dense-layers=2'] = '%-%-dense%-layers is 2',
    } do
      local status, out, err = program.run(SMALL .. arguments)
      assert.are.equal(2, status, err)
      assert.are.equal('', out)
      assert.matches(pattern, err)
    end
  end)
end)

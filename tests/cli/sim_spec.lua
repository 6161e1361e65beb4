-- SPDX-License-Identifier: Apache-2.0

-- neap run --device=sim: trains on the CPU, timed on the model of a cluster.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SMALL = 'run experiments/quickstart.lua --layers=2 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=48 --sequence=32 --batch=8 --text=english --steps=3 --trace= --no-store '

local function expect(status, arguments, pattern)
  local got, out, err = program.run(SMALL .. arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out
end

local function rows(arguments)
  return json.decode(expect(0, arguments .. ' --json')).rows
end

describe('neap run --device=sim', function()
  it('trains as on the CPU, and tells the time on the cluster', function()
    local real = rows '-n 4 --node-size=2 --policies=static,laer --in-process'
    local list = rows '--device=sim --cluster=laptop --policies=static,laer --in-process'
    for i, row in ipairs(list) do
      assert.are.equal(real[i].digest, row.digest)
      assert.are.equal(real[i].imbalance.mean, row.imbalance.mean)
      assert.are.same({ 'laptop', true }, { row.cluster, row.simulated })
      assert.is_true(row.step_ms > row.ideal_ms and row.ideal_ms > 0)
      assert.is_true(math.abs(row.utilization + row.exposed - 1) < 1e-9)
      assert.is_true(row.host.tokens_per_second > 0)
    end
    assert.is_nil(real[1].simulated)
  end)

  it('times another model with the routing of the recipe', function()
    local out = expect(0, '--device=sim --cluster=a100x8 --as=mixtral-8x7b-e16k4 '
      .. '--policies=static,minimax')
    assert.matches('\nideal +%d+%.%d+ +1.0000 .* 100.0', out)
    assert.matches('8 ranks, 3 steps, seed 1. .*simulated: mixtral%-8x7b%-e16k4 on a100x8', out)
    local small = rows '--device=sim --cluster=a100x8 --policies=static'
    local large = rows '--device=sim --cluster=a100x8 --policies=static --as=mixtral-8x7b-e16k4'
    assert.is_true(large[1].step_ms > 100 * small[1].step_ms)
  end)

  it('is what a training is priced at besides', function()
    local function row(arguments)
      local one = SMALL:gsub('%-%-steps=3', '--steps=1') .. '--policies=laer --node-size=8 '
      local status, out, err = program.run(one .. arguments .. ' --json')
      assert.are.equal(0, status, err)
      return json.decode(out).rows[1]
    end
    local besides = row '-n 8 --priced-on=a100x8'
    local timed = row '--device=sim --cluster=a100x8 --as=mixtral-8x7b-e16k4'
    assert.is_near(timed.step_ms, besides.cluster_step_ms, 1e-9 * timed.step_ms)
    assert.is_true(besides.step_ms ~= besides.cluster_step_ms)
    assert.is_nil(row('-n 8 --priced-on=').cluster_step_ms)
  end)

  it('takes other numbers of ranks', function()
    local list = rows '--device=sim --cluster=a100x8 -n 2 --slots=8 --policies=laer'
    assert.are.equal(2, list[1].ranks)
  end)

  it('refuses what does not fit', function()
    expect(2, '--cluster=laptop', '%-%-cluster and %-%-as go with %-%-device=sim')
    expect(2, '--device=sim --cluster=a100x31', "did you mean 'a100x32'")
    expect(2, '--device=sim --as=mixtral-8x7b', "unknown model 'mixtral%-8x7b'")
    expect(2, '--device=sim --cluster=a100x8 --as=mixtral-8x7b-e8k2',
      'has 8 experts; the recipe trains 16')
    expect(2, '--device=sim --timeline=x.json', '%-%-timeline records what ranks do')
  end)
end)

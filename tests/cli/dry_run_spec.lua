-- SPDX-License-Identifier: Apache-2.0

--- neap run --dry-run: the estimate of memory, against what the engine then holds.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local RECIPE = "run experiments/quickstart.lua --text=english --trace='' --policies=minimax "
local SHARE = 0.15 -- of what a run holds, that an estimate may be wrong by

local CASES = {
  '--steps=2',
  '--steps=2 --no-exact -n 4 --batch=4 --hidden=192 --layers=4 --schedule=neap --shard-group=2',
  '--steps=2 --no-exact -n 3 --node-size=2 --batch=7 --ffn=500 --experts=6 --top-k=3 --slots=3 '
    .. '--shard-group=node --schedule=none',
  '--steps=2 --no-exact --dtype=bf16 -n 4 --layers=3 --hidden=192 --batch=8 --shard-group=node '
    .. '--router-f32 --dense-layers=1 --dense-ffn=900 --shared-experts=1',
  '--steps=2 --no-exact -n 4 --dtype=bf16 --shard-group=node --node-size=2',
  '--steps=2 --no-exact -n 4 --shard-group=resident --hidden=192 --batch=8 --slots=6',
  '--steps=2 --no-exact -n 4 --shard-group=resident --ep=2 --hidden=192 --batch=8 --slots=8',
  '--steps=2 --no-exact -n 4 --dtype=bf16 --shard-group=resident --ep=2 --batch=4 --slots=9',
  '--steps=2 --no-exact -n 4 --batch=32 --layers=4 --schedule=laer:recompute=true '
    .. '--dense-layers=2 --shared-experts=2',
  '--steps=2 --no-exact -n 4 --dtype=bf16 --unshard=fp8 --shard-group=2 --hidden=192 --batch=4',
  '--steps=2 --no-exact -n 3 --dispatch=fp8 --hidden=192 --batch=9 --layers=4 --experts=8',
  '--steps=2 -n 1 --slots=16 --batch=2 --heads=8 --kv-heads=2 --sequence=200',
}

local function run(arguments)
  local status, out, err = program.run(arguments .. ' --json')
  assert.are.equal(0, status, err)
  return json.decode(out)
end

describe('neap run --dry-run', function()
  for _, case in ipairs(CASES) do
    it('estimates what a run holds: ' .. case, function()
      local estimated = run(RECIPE .. case .. ' --dry-run')
      local held = run(RECIPE .. case).rows[1].device_bytes
      assert.is_true(math.abs(estimated.process / held - 1) < SHARE,
        ('estimated %.1f MB, held %.1f MB'):format(estimated.process / 1e6, held / 1e6))
      local sum = 0
      for _, kind in ipairs(estimated.rows) do sum = sum + kind.bytes end
      assert.is_true(math.abs(sum - estimated.rank) < 1)
    end)
  end

  it('starts nothing, and tells which parameter lowers what', function()
    local status, out = program.run(RECIPE .. '--dry-run --hidden=8192 --layers=100 --batch=4096')
    assert.are.equal(0, status)
    assert.matches('activations +[%d.]+ +%d+ +batch or sequence', out)
    assert.matches('8 ranks on a device: [%d.]+ GB\n[%d,]+ parameters, of which a token uses '
      .. '[%d,]+; a step: %S+ GFLOP', out)
  end)

  it('knows trainings only', function()
    local status, _, err = program.run 'run tests/cli/recipes/probe.lua --dry-run'
    assert.are.equal(2, status)
    assert.matches("does not have a training's parameters", err)
  end)

  it('is what a run without memory is told', function()
    local status, _, err = program.run 'run tests/cli/recipes/hungry.lua --slots=8'
    assert.are.equal(1, status)
    assert.matches('rank 1: .*4 are free; the run is estimated to need [%d.]+ GB on this device '
      .. 'for its 2 ranks %(%-%-dry%-run%), most of it, %d+ %%, for activations: lower batch or '
      .. 'sequence', err)
  end)
end)

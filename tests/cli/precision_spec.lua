-- SPDX-License-Identifier: Apache-2.0

--- Trainings whose policy decides how experts and tokens travel.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local RECIPE = "experiments/quickstart.lua --text=english --trace='' --hidden=64 --ffn=48 "
  .. '--layers=2 --experts=6 --batch=6 --sequence=32 --steps=10 '
local FLAT = '--policies=fp8_when_flat:window=3,fall=1 ' -- in FP8 from the seventh step on

local function row(arguments)
  local status, out, err = program.run('run ' .. RECIPE .. arguments .. ' --json')
  assert.are.equal(0, status, err)
  return json.decode(out).rows[1], err
end

describe('a policy that decides precision', function()
  it('has one digest on any ranks, and says what was in FP8', function()
    local alone = row(FLAT .. '-n 1 --slots=6')
    assert.are.same({ 0.4, 0.4, 0 }, { alone.fp8_unshard, alone.fp8_dispatch, alone.faults })
    local fewer = row(FLAT .. '-n 3 --slots=2 --shard-group=2 --schedule=neap:recompute=true')
    assert.are.equal(alone.digest, fewer.digest)
    local whole = row '--policies=static -n 3 --slots=2'
    assert.is_nil(whole.fp8_unshard)
    assert.are.same({ whole.losses[6], true }, { alone.losses[6], whole.digest ~= alone.digest })
    assert.is_true(fewer.bytes_per_step.tokens < whole.bytes_per_step.tokens)
  end)

  it('from the first step on trains as the options do', function()
    local options = '-n 2 --slots=4 --dtype=bf16 '
    local path = os.tmpname()
    local file = assert(io.open(path .. '.lua', 'w'))
    file:write("local P = require('neap.policy').define { name = 'p' }\n",
      "function P.precision() return 'fp8' end\nreturn P\n")
    file:close()
    local own = row(('%s --policies=%s.lua'):format(options, path))
    os.remove(path)
    os.remove(path .. '.lua')
    local given = row(options .. '--policies=static --unshard=fp8 --dispatch=fp8')
    assert.are.equal(given.digest, own.digest)
    assert.are.same({ 1, 1 }, { given.fp8_unshard, given.fp8_dispatch })
  end)

  it('goes on from a checkpoint to the same digest', function()
    local folder = os.tmpname()
    os.remove(folder)
    local saves = ("--checkpoint='%s' --checkpoint-every=4 --checkpoint-keep=9 --no-store ")
      :format(folder)
    local whole = row(FLAT .. saves .. '-n 2 --slots=4')
    os.execute(("rm -rf '%s'/*/step-*10 '%s'/*/step-*8"):format(folder, folder))
    local rest, err = row(FLAT .. saves .. '-n 3 --slots=3 --resume')
    os.execute(("rm -rf '%s'"):format(folder))
    assert.matches('goes on after step 4', err)
    assert.are.same({ whole.digest, whole.fp8_unshard }, { rest.digest, rest.fp8_unshard })
  end)

  it('has it in the store, step by step, in compare, and in a trace', function()
    local store, trace = os.tmpname(), os.tmpname()
    local status, _, err = program.run(("run %s%s-n 2 --slots=4 --store='%s' --trace='%s'"):format(
      RECIPE:gsub("%-%-trace='' ", ''), FLAT, store, trace))
    assert.are.equal(0, status, err)
    local _, info = program.run(("trace info '%s'"):format(trace))
    os.remove(trace)
    assert.matches('fp8: as the policy says', info)
    local _, steps = program.run(("runs 1 --steps --json --store='%s'"):format(store))
    local rows = json.decode(steps).rows[1].results[1].metrics
    assert.are.same({ 0, 1 }, { rows[6].fp8_unshard, rows[7].fp8_unshard })
    local _, table_text = program.run(("compare 1 --metrics=fp8_dispatch --store='%s'"):format(
      store))
    os.remove(store)
    assert.matches('fp8_dispatch in %%.*40 ', table_text)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- experiments/real_trace.lua: ends by the clock, and its trace has the steps that were done.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local RECIPE = 'run experiments/real_trace.lua -n 4 --layers=2 --hidden=32 --experts=12 --top-k=3 '
  .. '--slots=4 --batch=4 --sequence=32 --json '

describe('the recipe for a trace of a real size', function()
  it('ends by the clock', function()
    local path = os.tmpname()
    local status, out, err = program.run(RECIPE .. '--steps=1000000 --minutes=0.01 --switch=2 '
      .. '--texts=english --trace=' .. path)
    assert.are.equal(0, status, err)
    local row = json.decode(out).rows[1]
    assert.is_true(row.steps > 1 and row.steps < 100000)
    status, out, err = program.run('trace info --json ' .. path)
    os.remove(path)
    assert.are.equal(0, status, err)
    local info = json.decode(out)
    assert.are.equal(row.steps, info.steps)
    assert.are.equal('english, in turn, 2 steps each', info.metadata.text)
  end)

  it('ends after its steps without a limit', function()
    local path = os.tmpname()
    local status, out, err = program.run(RECIPE .. '--steps=7 --switch=2 --dtype=bf16 '
      .. '--texts=english,english --trace=' .. path)
    os.remove(path)
    assert.are.equal(0, status, err)
    assert.are.equal(7, json.decode(out).rows[1].steps)
  end)
end)

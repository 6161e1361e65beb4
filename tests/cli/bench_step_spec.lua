-- SPDX-License-Identifier: Apache-2.0

--- neap bench step: what it reports of a few small steps.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SMALL = 'bench step --ranks=3 --node-size=2 --layers=2 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=24 --experts=5 --batch=6 --sequence=20 --vocabulary=50 '

local function sum(list)
  local total = 0
  for _, row in ipairs(list) do total = total + row.ms end
  return total
end

describe('neap bench step', function()
  it('measures schedules on the same steps', function()
    local path = os.tmpname()
    local status, out, err = program.run(SMALL .. '--json --schedules=none,laer:chunks=2+keep=3 '
      .. '--timeline=' .. path)
    assert.are.equal(0, status, err)
    local result = json.decode(out)
    assert.are.equal(120, result.tokens)
    assert.are.equal(2, #result.rows)
    -- embedding and head; in a layer norms, attention, router, experts; the last norm
    local dense = 2 * 50 * 32 + 32 + 2 * (2 * 32 + 32 * (32 + 2 * 16) + 32 * 32 + 32 * 5)
    assert.is_true(result.parameters >= dense + 2 * 5 * 3 * 32 * 24)
    for _, schedule in ipairs(result.rows) do
      assert.is_true(schedule.step_ms > 0 and schedule.tflops > 0)
      assert.is_true(schedule.exposed > 0 and schedule.exposed < 1)
      assert.is_true(schedule.utilization > 0 and schedule.utilization < 1)
      assert.is_true(schedule.utilization <= schedule.any_rank_computes + 1e-9)
      assert.is_true(sum(schedule.spans) <= schedule.step_ms * (1 + 1e-9))
      assert.is_true(math.abs(sum(schedule.exposed_by) / schedule.step_ms - schedule.exposed)
        < 0.2)
      assert.are.equal(result.rows[1].first_loss, schedule.first_loss)
      assert.is_nil(schedule.host_gap_us) -- there is no host beside the CPU
    end
    status, out = program.run(SMALL .. '--json --dry-run --schedules=none,laer:chunks=2+keep=3')
    assert.are.equal(0, status)
    local held = math.max(result.rows[1].device_bytes, result.rows[2].device_bytes)
    assert.is_true(math.abs(json.decode(out).process / held - 1) < 0.25)
    local file = assert(io.open(path))
    local events = json.decode(file:read '*a').traceEvents
    file:close()
    os.remove(path)
    assert.is_true(#events > 100)
  end)

  it('prints a table, and refuses a schedule that there is not', function()
    local status, out, err = program.run(SMALL .. '--schedules=neap --repeats=1')
    assert.are.equal(0, status, err)
    assert.matches('3 ranks, 120 tokens per step', out)
    assert.matches('\nneap +[%d.]+ +%d+', out)
    assert.matches('exposed: wait for tokens', out)
    status, out, err = program.run(SMALL .. '--schedules=nap')
    assert.are.equal('', out)
    assert.are.equal(2, status)
    assert.matches("did you mean 'neap'", err)
    status, out, err = program.run(SMALL .. '--torch')
    assert.are.equal('', out)
    assert.are.equal(2, status)
    assert.matches('%-%-torch needs %-%-device=cuda', err)
  end)
end)

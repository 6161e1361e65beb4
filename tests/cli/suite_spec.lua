-- SPDX-License-Identifier: Apache-2.0

-- neap suite: policies on workloads and traces, through the program.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local QUICK = 'suite --quick --steps=2 '

local function expect(status, arguments, pattern)
  local got, out, err = program.run(arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out
end

describe('neap suite', function()
  local folder = os.tmpname()
  os.remove(folder)

  teardown(function() os.execute("rm -rf '" .. folder .. "'") end)

  local function rows(arguments)
    return json.decode(expect(0, QUICK .. '--json --folder ' .. folder .. ' ' .. arguments)).rows
  end

  local W1 = '--workloads=W0,W1 --experts=8 --policy static --policy moonep:on=current '

  it('measures policies on workloads, the baselines first', function()
    local list = rows(W1)
    assert.are.equal(8, #list)
    for i, row in ipairs(list) do
      assert.are.equal(i <= 4 and 'W0 e8 n8' or 'W1 e8 n8', row.set)
      assert.are.equal(({ 'force-balanced', 'plain EP', 'static', 'moonep:on=current' })
        [(i - 1) % 4 + 1], row.policy)
      assert.is_near(list[i - (i - 1) % 4].step_ms / row.step_ms, row.share_of_balanced, 1e-9)
    end
    assert.are.equal(1, list[1].imbalance.max)
    for i = 6, 7 do
      assert.is_true(list[i].imbalance.mean > 1.5 and list[i].share_of_balanced < 1)
    end
    assert.is_true(list[8].imbalance.max < 1.01 and list[8].bytes_per_step.late > 0)
    assert.are.equal('current', list[8].plans_on)
  end)

  it('does not measure again what it has, and goes on behind half a line', function()
    local first = rows(W1)
    local path = folder .. '/rows.jsonl'
    local file = io.open(path)
    local text = file:read '*a'
    file:close()
    local count = select(2, text:gsub('\n', ''))
    assert.are.equal(8, count)
    file = io.open(path, 'w')
    file:write((text:gsub('[^\n]*\n$', '{"key": "ab')), '\n')
    file:close()
    local again = rows(W1)
    for i, row in ipairs(first) do
      assert.are.equal(row.step_ms, again[i].step_ms)
      if i < 8 then assert.are.equal(row.plan_ms.mean, again[i].plan_ms.mean) end
    end
  end)

  it('times a trace on machines of both clusters, in tables', function()
    local out = expect(0, QUICK .. '--workloads none --policy laer --folder ' .. folder
      .. ' experiments/traces/e8k2.safetensors')
    assert.matches('e8k2.safetensors: 32 ranks in nodes of 8, 64 slots for 8 experts, 2 steps, '
      .. 'on machines of a100x32', out)
    assert.matches('\nforce%-balanced +1.0000 ', out)
    assert.matches('on machines of h100x256\npolicy +imbalance +max +inter%-node %% +', out)
  end)

  it('refuses what it cannot do', function()
    expect(2, QUICK .. '--workloads W9', "unknown workload 'W9'.*did you mean")
    expect(2, QUICK .. '--workloads none', 'nothing to do')
    expect(2, QUICK .. '--workloads none experiments/traces/moe_473m.csv.gz', 'give %-%-slots')
    expect(2, QUICK .. '--policy lear', "did you mean 'laer'")
    expect(2, QUICK .. '--experts 8,x', "%-%-experts is 'x'")
  end)
end)

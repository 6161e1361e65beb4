-- SPDX-License-Identifier: Apache-2.0

-- neap simulate, calibrate's files and the paper's scripts, through the program.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local function expect(status, arguments, pattern)
  local got, out, err = program.run(arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out
end

local SMALL = 'simulate --cluster a100x8 --layers 2 --steps 1 '

describe('neap simulate', function()
  it('compares policies, files among them', function()
    local out = expect(0, SMALL .. '--policy static --policy experiments/policies/hot.lua --json')
    local document = json.decode(out)
    assert.equal(2, #document.rows)
    assert.is_true(document.simulated)
    assert.is_true(document.rows[2].step_ms < document.rows[1].step_ms)
    for _, row in ipairs(document.rows) do
      assert.is_true(row.share_of_ideal > 0 and row.share_of_ideal <= 1)
      assert.is_true(math.abs(row.utilization + row.exposed - 1) < 1e-9)
    end
  end)

  it('tells the share of force-balanced routing', function()
    local both = json.decode(expect(0, SMALL .. '--policy static --balanced --json')).rows[1]
    local balanced = expect(0, SMALL .. '--policy static+minimax --routing balanced --json')
    local even = json.decode(balanced).rows[1]
    assert.is_near(even.step_ms / both.step_ms, both.share_of_balanced, 1e-9)
    assert.is_true(both.share_of_balanced < 0.99)
    local laer = json.decode(expect(0, SMALL .. '--policy laer --balanced --json')).rows[1]
    assert.is_near(even.step_ms / laer.step_ms, laer.share_of_balanced, 1e-9)
  end)

  it('takes a model of a file, its tokens, a routing, baselines and several schedules', function()
    local path = os.tmpname() .. '.lua'
    local file = assert(io.open(path, 'w'))
    file:write [[return { hidden = 256, ffn = 128, experts = 16, top_k = 2, slots = 4, layers = 3,
      heads = 4, kv_heads = 4, dense_layers = 1, shared_experts = 1 }]]
    file:close()
    local of_file = 'simulate --cluster a100x8 --steps 1 --policy neap --model ' .. path
      .. ' --tokens 512 --micro-batches 3 --routing later '
    local document = json.decode(expect(0, of_file .. '--baselines --json'))
    assert.matches('^later %(synthetic: deviation 3.4, ', document.routing)
    assert.are.equal(5, #document.rows)
    for i, row in ipairs(document.rows) do
      assert.are.equal(i > 1 and 'resident' or nil, row.experts)
      assert.are.same({ 'yes', 80e9, 6 }, { row.fits, row.memory.capacity, #row.memory.kinds })
    end
    local out = expect(0, of_file .. '--schedule laer --schedule neap:recompute=true --memory')
    os.remove(path)
    assert.matches('routing later .*\nschedule laer\n.*fastest of what fits: neap.*lean / engine.*'
      .. '\nschedule neap:recompute=true\n', out)
  end)

  it('ranks no row whose memory the ranks lack', function()
    local out = expect(0, 'simulate --cluster laptop --layers 2 --steps 1 --policy static')
    assert.matches('static %(does not fit%)', out)
    assert.matches('not ranked, since not even a lean program fits into the 4.0 GB', out)
    assert.matches('nothing fits: no row is ranked', out)
  end)

  it('writes a timeline and tells where the time goes', function()
    local path = os.tmpname()
    local out = expect(0, SMALL .. '--policy laer --timeline ' .. path)
    assert.matches('exposed: wait for tokens', out)
    local file = io.open(path)
    local document = json.decode(file:read '*a')
    file:close()
    os.remove(path)
    local critical = 0
    for _, event in ipairs(document.traceEvents) do
      if event.args and event.args.critical then critical = critical + 1 end
    end
    assert.is_true(critical > 20)
  end)

  it('refuses bad input', function()
    expect(2, 'simulate --cluster a100x31', "did you mean 'a100x32'")
    expect(2, 'simulate --routing latr', "did you mean 'later'")
    expect(2, 'simulate --model nowhere.lua', 'model .*nowhere.lua')
    expect(2, 'simulate --tokens 0', "%-%-tokens is '0'")
    expect(2, 'simulate --schedule lear', "did you mean 'laer'")
    expect(2, SMALL .. '--slots 1', 'there are 16 experts, so it must be 2 or more')
    expect(0, SMALL .. '--slots 2 --policy static', 'as many slots as experts %(16%)')
    expect(2, SMALL .. '--shard-group 0', "%-%-shard%-group is '0'")
    expect(2, SMALL .. '--schedule laer:chunks=0', 'chunks is 0; it must be a whole number')
    expect(2, SMALL .. '--shard-group 9', 'shard_group is 9; .* whole number of ranks from 1 to 8')
    expect(3, SMALL .. '--policy tests/policies/fails.lua --strict', 'fails.lua:%d+: plan at step')
    local path = os.tmpname()
    local file = io.open(path, 'w')
    file:write 'step,layer,rank,e0,e1\n0,0,0,1,2\n'
    file:close()
    expect(2, SMALL .. '--trace ' .. path, 'has 1 ranks, 2 experts and 1 layers; .* want 8, 16')
    os.remove(path)
  end)
end)

describe("the paper's scripts", function()
  it('print one JSON document', function()
    local out = expect(0, 'run experiments/paper/end_to_end.lua --model=mixtral-8x7b-e8k2 '
      .. '--steps=1 --seeds=1 --json')
    local rows, methods = json.decode(out).rows, {}
    for _, row in ipairs(rows) do
      methods[row.method] = true
      for _, field in ipairs { 'step_ms', 'utilization', 'exposed', 'share_of_ideal' } do
        assert.is_number(row[field], field)
      end
      assert.is_number(row.imbalance.mean)
    end
    assert.same({ ['fsdp+ep'] = true, flexmoe = true, laer = true, megatron = true,
      ['neap-equal'] = true, neap = true }, methods)
    expect(2, 'run experiments/paper/end_to_end.lua --model=mixtral', 'unknown model')
    expect(2, 'run experiments/paper/beyond.lua --part=link', "allowed: all, ranks")
  end)
end)

describe('neap bench predict', function()
  local long = os.getenv 'NEAP_LONG' and it or pending -- trains five models
  long('tells the error of the step and of its spans', function()
    local out = expect(0, 'bench predict --ranks=2 --steps=2 --json')
    local row, sum = json.decode(out).rows[1], 0
    assert.is_true(row.ratio > 0 and #row.spans >= 5)
    for _, span in ipairs(row.spans) do
      assert.is_true(span.measured_ms > 0 and span.predicted_ms >= 0, span.span)
      sum = sum + span.measured_ms
    end
    assert.is_true(sum > 0.5 * row.measured_ms)
    assert.is_number(row.machine.spans.attention)
  end)
end)

describe('neap calibrate', function()
  it('writes a description that simulate takes', function()
    local path = os.tmpname() .. '.lua'
    expect(0, 'calibrate -n 4 --steps 1 --out ' .. path)
    expect(0, 'simulate --cluster ' .. path .. ' --layers 1 --steps 1 --policy laer '
      .. '--model moe-1.2b')
    os.remove(path)
  end)
end)

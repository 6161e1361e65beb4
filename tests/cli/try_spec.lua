-- SPDX-License-Identifier: Apache-2.0

--- A policy in seconds: what neap try says of good, faulty, endless and undecided ones.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

describe('neap try', function()
  local folder, small

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
    small = (" --trace '%s/small.safetensors' "):format(folder)
    assert.are.equal(0, (program.run(("trace synth '%s/small.safetensors' --ranks 8 --steps 9 "
      .. '--layers 2 --tokens 512 --slots 4 --node-size 4'):format(folder))))
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  local function write(text)
    local path = folder .. '/mine.lua'
    local file = io.open(path, 'w')
    file:write(text)
    file:close()
    return path
  end

  local function try(status, arguments)
    local got, out, err = program.run('try ' .. arguments)
    assert.are.equal(status, got, out .. err)
    return out, err
  end

  it('scores a good policy on the shipped traces, next to the references', function()
    local document = json.decode((try(0, 'experiments/policies/hot.lua --json')))
    assert.are.equal(4, #document.rows)
    assert.are.equal(true, document.deterministic)
    for _, row in ipairs(document.rows) do
      assert.is_true(row.imbalance.mean < row.references.laer.mean, row.trace)
      assert.is_true(row.references.laer.mean < row.references.static.mean, row.trace)
      assert.is_true(row.worst.fullest >= row.imbalance.p95 - 1e-9)
    end
  end)

  it('shows the worst step, and draws it', function()
    local picture = folder .. '/worst.svg'
    local out = try(0, ("laer --picture '%s'%s"):format(picture, small))
    assert.matches('laer: every answer is valid, deterministic', out)
    assert.matches('\nsmall +%d', out)
    assert.matches('worst step of small: step %d, layer [01], imbalance 1.%d+\n  node 0 ', out)
    assert.matches('rank %d is fullest, 1.%d+ x the mean %(expert %d+: ', out)
    local file = io.open(picture)
    assert.matches('^<svg', file:read '*a')
    file:close()
  end)

  it('names faults, and does not wait for endless loops', function()
    local out = try(3, 'tests/policies/fails.lua' .. small)
    assert.matches('FAULTS, deterministic\n  small: policy .*fails.lua:3: plan at step 1, layer 0',
      out)
    assert.matches(': 18 FAULTS.*\n  and 15 more\n', out)
    assert.matches('NOT ITS OWN: its answers were in force for 0 %% of the splits', out)
    assert.is_nil(out:find 'better balanced')
    out = try(3, 'tests/policies/loops.lua --deadline 0.2' .. small)
    assert.matches('loops.lua:%d+: plan at step 1, layer 0 ran for more than 0.2 s', out)
    assert.matches(': 1 FAULT, at which 1 of 1 replays were ended', out)
  end)

  it('finds what is not deterministic', function()
    local path = write [[
      local P = require('neap.policy').define { name = 'p' }
      function P:plan(ctx)
        local layout, load = ctx:layout(), ctx.history:sum(5):by_expert()
        local shift = math.floor(require('neap.base.lib').C.neap_clock() * 1e6) % 7
        for e = 0, 15 do load[e] = load[e] + shift * (e % 3) * 100 end
        for expert, count in ctx:replicas(load) do layout:spread(expert, count) end
        return layout
      end
      return P]]
    assert.matches('NOT DETERMINISTIC', (try(3, path .. small)))
  end)

  it('watches: tries again when the file is saved, whatever is in it', function()
    local path = write 'return 1'
    local status, out, err = program.shell((("'%s' try '%s' --watch %s & p=$!; sleep 2; "
      .. "cp experiments/policies/hot.lua '%s'; sleep 2; kill -INT $p; wait $p")
      :format(program.path, path, small, path)))
    assert.are.equal(130, status, out .. err)
    assert.matches('must return what policy.define', err)
    assert.matches('every answer is valid', out)
  end)

  it('refuses with a hint', function()
    local _, err = try(2, 'laeer')
    assert.matches("unknown policy 'laeer' %(did you mean 'laer'%?%)", err)
    assert.matches('the policy stands alone: neap try hot', select(2, try(2, '--policies=hot')))
    assert.matches('ranks are those of the traces', select(2, try(2, 'hot -n 4')))
  end)
end)

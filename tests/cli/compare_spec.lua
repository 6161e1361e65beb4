-- SPDX-License-Identifier: Apache-2.0

--- From a sweep to a verdict, on the command line.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

describe('neap compare', function()
  local folder, store

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
    store = (" --store '%s/runs.db'"):format(folder)
    for trace = 1, 5 do
      local file = io.open(('%s/%d.csv'):format(folder, trace), 'w')
      file:write 'step,layer,rank,e0,e1,e2,e3\n'
      for step = 0, 7 do
        for rank = 0, 3 do
          file:write(('%d,0,%d,%d,20,%d,10\n'):format(step, rank, 90 + trace, 5 * rank + trace))
        end
      end
      file:close()
    end
    local status, out, err = program.shell(("cd '%s' && '%s' sweep replay trace=1.csv,2.csv,3.csv,"
      .. '4.csv,5.csv slots=2 node_size=2 policy=static,laer,laer+minimax --name five%s'):format(
      folder, program.path, store))
    assert.are.equal(0, status, out .. err)
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  local function neap(status, arguments)
    local got, out, err = program.run('compare ' .. arguments .. store)
    assert.are.equal(status, got, out .. err)
    return out, err
  end

  it('shows differences, references, ideal and verdict', function()
    local out = neap(0, '--sweep five')
    assert.matches('imbalance %(lower is better%), compared with static', out)
    assert.matches('\nlaer%+minimax +1%.%d+ +5 +%-%d%.%d+ +%[%-.-%] +%-%d+%.%d %% .* better', out)
    assert.matches('\nideal +1.0000', out)
    assert.matches('no winner: laer%+minimax and laer, the best two', out)
  end)

  it('does not judge a policy that was not in force', function()
    for _, name in ipairs { 'static', 'tests/policies/fails.lua' } do
      program.run(("replay --trace '%s/1.csv' --slots 2 --node-size 2 --policy %s --seed 9%s")
        :format(folder, name, store))
    end
    local out = neap(0, 'tests/policies/fails.lua --metric imbalance')
    assert.matches('fails %(never in force%) [^\n]* says nothing of it', out)
    assert.matches('fails: 8 faults; its own answers were in force for 0 %% of the splits, so '
      .. 'it is not judged', out)
    local document = json.decode((neap(0, 'tests/policies/fails.lua --metric imbalance --json')))
    for _, row in ipairs(document.rows) do
      assert.are.equal(row.policy:find 'fails' and 0 or nil, row.in_force)
    end
  end)

  it('compares within each value of a parameter', function()
    for slots = 2, 3 do
      program.run(("replay --trace '%s/1.csv' --node-size 2 --policy static,laer --seed 5 "
        .. '--slots %d%s'):format(folder, slots, store))
    end
    local runs = json.decode((select(2, program.run('runs --json' .. store)))).rows
    local last = ('%d..%d'):format(runs[#runs - 1].id, runs[#runs].id)
    local out = neap(0, last .. ' --by slots --metric imbalance')
    assert.matches('^==== slots = 2 ====\n.*\n==== slots = 3 ====\n', out)
    local document = json.decode((neap(0, last .. ' --by slots --metric imbalance --json')))
    assert.are.same({ 'slots', 4, '2', '3' }, { document.by, #document.rows,
      document.rows[1].group, document.rows[3].group })
    assert.are_not.equal(document.rows[2].mean, document.rows[4].mean)
    assert.matches('^slots,metric,.*\n2,imbalance,.*\n3,imbalance,',
      (neap(0, last .. ' --by slots --metric imbalance --csv')))
    assert.matches("%-%-by is 'slot' %(did you mean 'slots'%?%); these runs have: ",
      select(2, neap(2, last .. ' --by slot')))
    local page = select(2, program.run('report --by slots -o -' .. store))
    assert.matches('slots = 2, compared with.*slots = 3, compared with', page)
  end)

  it('exports JSON, CSV and Markdown', function()
    local document = json.decode((neap(0, 'five --json --metric imbalance')))
    assert.are.same({ 'imbalance', 3 }, { document.rows[1].metric, #document.rows })
    assert.matches('best two', document.winners[1].reason)
    local out = neap(0, 'five --csv --metric imbalance')
    assert.matches('^metric,better,baseline,policy,mean,', out)
    assert.are.equal(4, select(2, out:gsub('\n', '')))
    local path = folder .. '/table.md'
    neap(0, ("five --markdown --out '%s'"):format(path))
    local file = io.open(path)
    assert.matches('\n|%-%-%-|', file:read '*a')
    file:close()
  end)

  it('refuses with a hint', function()
    for arguments, pattern in pairs {
      ['--sweep fiv'] = "no sweep 'fiv' .*did you mean 'five'",
      ['lear'] = "did you mean 'laer'",
      ['five --metric imbalanc'] = "did you mean 'imbalance'",
      ['900..901'] = 'no finished results there',
      ['900..99999999999'] = 'no finished results there',
      ['9..8'] = 'the range is empty; it must rise',
    } do
      local _, err = neap(2, arguments)
      assert.matches('^neap: .*' .. pattern, err)
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- Sweeps: what is done is never done again, and nothing is lost.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

local SIZES = 'layers=1 hidden=16 heads=2 kv_heads=1 ffn=16 experts=4 slots=2 batch=4 sequence=16 '
  .. 'text=english trace= ranks=2 '

local folder, runs
local function make_folder()
  folder = os.tmpname()
  os.remove(folder)
  program.shell(("mkdir '%s'"):format(folder))
  runs = folder .. '/runs.db'
end

--- Runs neap with the store of this folder; arguments for the shell. Returns stdout and stderr.
local function neap(status, arguments)
  local got, out, err = program.run(('%s --store %s'):format(arguments, runs))
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  return out, err
end

local function sweep(status, arguments)
  return neap(status, 'sweep experiments/quickstart.lua ' .. SIZES .. arguments)
end

local function states(document)
  local list = {}
  for i, run in ipairs(document.rows) do list[i] = run.state end
  return list
end

describe('neap sweep', function()
  before_each(make_folder)
  after_each(function() program.shell(("rm -r '%s'"):format(folder)) end)

  it('plans without doing anything', function()
    local out = sweep(0, 'policy=static,laer seed=0..1 steps=2 --dry-run')
    assert.matches('\n  4  todo +%-  seed=1 policy=laer', out)
    assert.matches('4 runs, 4 to do, no estimate', out)
    assert.is_nil(io.open(runs))
  end)

  it('does runs again when a module has changed that their policy requires', function()
    local function write(name, text)
      local file = assert(io.open(folder .. '/' .. name, 'w'))
      file:write(text)
      file:close()
    end
    write('needs.lua', "local first = require 'least_of_policy'.first\n"
      .. "local P = require('neap.policy').define { name = 'needs' }\n"
      .. 'function P:plan(ctx) return require("neap").plan.laer(ctx, { window = first }) end\n'
      .. 'return P')
    local replays = ("sweep replay trace=experiments/traces/quickstart.safetensors slots=4 "
      .. "'policy=%s/needs.lua' --name needs"):format(folder)
    write('least_of_policy.lua', 'return { first = 1 }')
    assert.matches('1 to do', (neap(0, replays .. ' --dry-run')))
    neap(0, replays)
    assert.matches('0 to do', (neap(0, replays .. ' --dry-run')))
    write('least_of_policy.lua', 'return { first = 2 }')
    assert.matches('1 to do', (neap(0, replays .. ' --dry-run')))
  end)

  it('does runs again when the engine has changed, not what only shows results', function()
    local home = folder .. '/home'
    program.shell(("mkdir '%s' && cp -r lua '%s' && ln -s \"$PWD/experiments\" '%s'"):format(home,
      home, home))
    local function key(file)
      local _, out = program.shell(("[ -z '%s' ] || echo '-- x' >>'%s/lua/neap/%s'; NEAP_HOME='%s' "
        .. "'%s' sweep replay trace=experiments/traces/e8k2.safetensors policy=static --dry-run "
        .. "--json --store '%s'"):format(file, home, file, home, program.path, runs))
      return json.decode(out).rows[1].key
    end
    local first = key ''
    assert.are.equal(first, key 'report/page.lua')
    assert.are_not.equal(first, key 'base/series.lua')
  end)

  it('does every run once, goes on, and does failed ones only when asked', function()
    local out = sweep(0, 'policy=static,laer steps=2 --jobs 2 --json')
    assert.are.same({ 'done', 'done' }, states(json.decode(out)))
    local fails = 'policy=static,tests/policies/fails.lua steps=3 strict=true '
    out = sweep(1, fails)
    assert.matches('1 done, 1 failed, 0 to do', out)
    assert.matches('failed: no. 2 %(run %d+%), policy=tests/policies/fails.lua: .*fails.lua', out)
    sweep(0, 'policy=static,laer,minimax steps=2')
    sweep(1, fails)
    local list = json.decode((neap(0, 'runs --last 100 --json'))).rows
    assert.are.equal(5, #list)
    sweep(1, fails .. '--retry-failed')
    list = json.decode((neap(0, 'runs --last 100 --json'))).rows
    assert.are.equal(6, #list)
    assert.matches('about %d', (sweep(0, 'policy=static seed=7..8 steps=2 --dry-run')))
  end)

  it('takes runs made by hand as done, and other text of a recipe as something else', function()
    neap(0, 'run experiments/quickstart.lua -n 2 --steps=2 --seed=5 --policies=laer '
      .. SIZES:gsub('ranks=2 ', ''):gsub('([%w_]+=)', '--%1'):gsub('_', '-'))
    local out = sweep(0, 'policy=laer seed=5..6 steps=2 --dry-run --json')
    assert.are.same({ 'done', 'todo' }, states(json.decode(out)))
    program.shell(("cp experiments/quickstart.lua '%s/q.lua' && echo '-- x' >>'%s/q.lua'"):format(
      folder, folder))
    out = neap(0, ("sweep '%s/q.lua' %s policy=laer seed=5 steps=2 --dry-run --json"):format(folder,
      SIZES))
    assert.are.same({ 'todo' }, states(json.decode(out)))
  end)

  it('shares runs with another one that goes on at the same time', function()
    local one = ("'%s' sweep replay trace=experiments/traces/e8k2.safetensors slots=2 node_size=8 "
      .. "policy=static,laer,neap seed=0..3 --name both --store '%s' --json"):format(program.path,
      runs)
    local status, out, err = program.shell(("%s >%s/1 2>&1 & %s >%s/2 2>&1; s=$?; wait $!; "
      .. 'echo $s $?; tail -n 1 %s/1; tail -n 1 %s/2'):format(one, folder, one, folder, folder,
      folder))
    assert.are.equal(0, status, err)
    local statuses, first, second = out:match '^(%d %d)\n([^\n]*)\n([^\n]*)\n$'
    assert.are.equal('0 0', statuses, out)
    local list, done = json.decode((neap(0, 'runs --last 100 --json'))).rows, 0
    assert.are.equal(12, #list)
    for _, run in ipairs(list) do
      assert.are.same({ 'done', 'both', 1 }, { run.state, run.sweep, #run.policies })
    end
    for _, text in ipairs { first, second } do
      for _, state in ipairs(states(json.decode(text))) do
        done = done + (state == 'done' and 1 or 0)
        assert.is_true(state == 'done' or state == 'running', state)
      end
    end
    assert.is_true(done >= 12)
  end)

  it('stops cleanly on Ctrl-C, with 130, and goes on', function()
    local command = ("'%s' sweep experiments/quickstart.lua %s policy=static,laer steps=3,100000 "
      .. "--name long --store '%s' >/dev/null 2>'%s/err' & p=$!; "):format(program.path, SIZES,
      runs, folder)
    local wait = ("for i in $(seq 100); do '%s' runs --store '%s' 2>/dev/null | grep -q running "
      .. '&& break; sleep 0.1; done; sleep 0.7; kill -INT $p; wait $p'):format(program.path, runs)
    local status = program.shell(command .. wait)
    assert.are.equal(130, status)
    local file = io.open(folder .. '/err')
    assert.matches('neap: interrupted; the same command goes on from here', file:read '*a')
    file:close()
    launcher.sleep(0.1)
    local list = json.decode((neap(0, 'runs --json'))).rows
    for _, run in ipairs(list) do
      assert.is_true(run.state == 'done' or run.state == 'interrupted', run.state)
    end
    local out = sweep(0, 'policy=static,laer steps=3 --name long --json')
    assert.are.same({ 'done', 'done' }, states(json.decode(out)))
  end)

  it('starts runs under a launcher', function()
    local out = sweep(0, ('policy=laer seed=1 steps=2 --json --launch "mpirun --oversubscribe '
      .. '--allow-run-as-root -n 2"'))
    assert.are.same({ 'done' }, states(json.decode(out)))
    assert.are.equal('mpi', json.decode((neap(0, 'runs 1 --json'))).rows[1].transport)
    local file = io.open(folder .. '/launcher', 'w')
    file:write '#!/bin/sh\necho ---- >&2; echo laer 1/9 loss 2 >&2; echo no such host >&2; exit 9\n'
    file:close()
    out = sweep(1, ('policy=laer seed=1 steps=2 --launch "sh %s/launcher"'):format(folder))
    assert.matches('exit status 9: no such host', out)
  end)

  it('takes a file, replays and simulations', function()
    local out = neap(0, 'sweep experiments/sweeps/policies.lua --dry-run')
    assert.matches('sweep policies: 30 runs, 30 to do', out)
    local file = io.open(folder .. '/s.lua', 'w')
    file:write(("return { kind = 'replay', fixed = { slots = 2, trace = '%s/t.csv' },"
      .. "grid = { policy = { 'static', 'laer' }, seed = '0..1' } }"):format(folder))
    file:close()
    file = io.open(folder .. '/t.csv', 'w')
    file:write 'step,layer,rank,e0,e1\n'
    for step = 0, 7 do
      for rank = 0, 1 do file:write(('%d,0,%d,%d,5\n'):format(step, rank, 9 + step)) end
    end
    file:close()
    assert.matches('4 done', (neap(0, ("sweep '%s/s.lua'"):format(folder))))
    assert.matches('2 done', (neap(0, 'sweep simulate policy=static,laer seed=1 steps=1')))
    assert.matches('step_ms', (neap(0, 'compare simulate')))
  end)

  it('refuses with a hint, before anything runs', function()
    for arguments, pattern in pairs {
      ['experiments/quickstart.lua stepz=3'] = "'%-%-stepz' %(did you mean '%-%-steps'%?%)",
      ['experiments/quickstart.lua seed=x'] = "%-%-seed is 'x'; it must be a number",
      ['experiments/quickstart.lua policy=lear'] = "unknown policy 'lear' %(did you mean 'laer'",
      ['replya'] = "replya: no such file %(did you mean 'replay'",
      ['experiments/policies/laer.lua'] = 'unknown field',
      ['run seed=1'] = 'needs a script',
    } do
      local _, err = neap(2, 'sweep ' .. arguments)
      assert.matches('^neap: .*' .. pattern, err)
    end
    assert.is_nil(io.open(runs))
  end)
end)

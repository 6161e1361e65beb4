-- SPDX-License-Identifier: Apache-2.0

--- Runs are recorded, whatever becomes of them.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local moments = require 'neap.runs.moments'
local program = require 'tests.cli.program'
local store = require 'neap.runs.store'

local SMALL = 'run experiments/quickstart.lua --layers=2 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=48 --experts=6 --slots=3 --batch=8 --sequence=32 --warmup=2 --text=english,go@3 '
  .. "--trace='' -n 4 "

describe('neap runs', function()
  local path
  before_each(function()
    path = os.tmpname()
    os.remove(path)
  end)
  after_each(function() program.shell(('rm -f %s %s-wal %s-shm'):format(path, path, path)) end)

  local function run(arguments)
    return program.run(('%s --store %s'):format(arguments, path))
  end

  local function show(arguments)
    local status, out, err = run('runs --json ' .. arguments)
    assert.are.equal(0, status, err)
    return json.decode(out).rows
  end

  it('shows a training run with all that is needed to do it again', function()
    assert.are.equal(0, (run(SMALL .. '--steps=6 --policies=static,laer --exact --seed=3')))
    local list = show ''
    assert.are.same({ 'done', 'run', 3, { 'static', 'laer' } },
      { list[1].state, list[1].kind, list[1].seed, list[1].policies })
    local one = show('1 --steps')[1]
    assert.are.equal(true, one.parameters.exact)
    assert.matches('^%x+$', one.corpora.english.sha256)
    assert.matches('^[%d.]+', one.corpora.go.version)
    assert.are.same({ 'local', 4, 0 }, { one.transport, one.ranks, one.exit_status })
    assert.matches('neap run .*%-%-seed=3', one.command)
    local a, b = one.results[1], one.results[2]
    assert.are.equal(6, #a.metrics)
    assert.are.equal(a.summary.digest, b.summary.digest)
    for step = 1, 6 do
      assert.are.equal(a.metrics[step].loss, b.metrics[step].loss)
      assert.is_true(b.metrics[step].imbalance.mean >= 1 and b.metrics[step].seconds > 0)
    end
    assert.are.equal(a.metrics[1].layouts, a.metrics[6].layouts)
    assert.are_not.equal(b.metrics[1].layouts, b.metrics[6].layouts)
    assert.is_true(b.metrics[6].bytes_per_step.tokens > 0)
    local kept = store.open(path)
    local moment = moments.read(kept, b.id, 1)[1]
    kept:close()
    assert.are.same({ 2, 6, 2, 4, 3 }, { #moment.loads, #moment.loads[1], #moment.layouts,
      #moment.layouts[2], #moment.layouts[2][1] })
    for layer = 1, 2 do
      local sum = 0
      for _, tokens in ipairs(moment.loads[layer]) do sum = sum + tokens end
      assert.are.equal(8 * 32 * 2, sum) -- every token goes to two experts
    end
  end)

  it('records under mpirun, once', function()
    local status, _, err = program.mpirun(2, (SMALL:gsub('%-n 4', ''))
      .. '--steps=3 --policies=laer --store ' .. path)
    assert.are.equal(0, status, err)
    local list = show ''
    assert.are.equal(1, #list)
    assert.are.same({ 'done', 'mpi', 2 }, { list[1].state, list[1].transport, list[1].ranks })
  end)

  it('tells a failed rank of mpirun from a killed run', function()
    local recipe = os.tmpname()
    local file = io.open(recipe, 'w')
    file:write [[return require('neap.train.recipe').define {
      name = 'fails', run = function(_, job)
        if job.rank == 1 then error 'too hot' end
        job.comm:barrier()
      end }]]
    file:close()
    assert.are.equal(1, (program.mpirun(2, ('run %s --store %s'):format(recipe, path))))
    local failed = show ''[1]
    assert.are.same({ 'failed', 1 }, { failed.state, failed.exit_status })
    assert.matches('rank 1: .*too hot', failed.error)
    os.remove(recipe)
  end)

  it('records what all ranks have measured of a step', function()
    assert.are.equal(0, (run(SMALL .. '--steps=4 --policies=laer')))
    local result = show '1 --steps'[1].results[1]
    local bytes, exposed = 0, 0
    for _, step in ipairs(result.metrics) do
      bytes = bytes + step.bytes_per_step.tokens
      exposed = exposed + step.exposed / 4
      assert.is_true(step.utilization > 0 and step.exposed > 0 and step.exposed < 1)
    end
    assert.is_near(result.summary.bytes_per_step.tokens, bytes / 4, 1)
    assert.is_true(math.abs(exposed - result.summary.exposed) < 0.2)
  end)

  it('keeps failures with what they said', function()
    assert.are.equal(3, (run(SMALL .. '--steps=6 --strict --policies=tests/policies/fails.lua')))
    local failed = show '--state failed'
    assert.are.equal(1, #failed)
    assert.are.equal(3, failed[1].exit_status)
    assert.matches('fails.lua', failed[1].error)
  end)

  it('lists a killed run as interrupted, with the steps that it made', function()
    local pid = tonumber((select(2, program.shell(("'%s' %s --steps=100000 --policies=static "
      .. '--store %s >/dev/null 2>&1 & echo $!'):format(program.path, SMALL, path)))))
    local function steps()
      local pipe = io.popen(("'%s' runs 1 --steps --json --store %s 2>/dev/null"):format(
        program.path, path))
      local one = (json.decode(pipe:read '*a') or { rows = {} }).rows[1]
      pipe:close()
      return one and one.results[1] and #one.results[1].metrics or 0
    end
    for _ = 1, 200 do
      if steps() > 0 then break end
      launcher.sleep(0.1)
    end
    assert.are.equal('running', show ''[1].state)
    program.shell('kill -9 ' .. pid)
    launcher.sleep(0.1)
    assert.are.equal('interrupted', show ''[1].state)
    assert.is_true(steps() > 0)
  end)

  it('records replays, and nothing with --no-store', function()
    local csv = os.tmpname()
    local file = io.open(csv, 'w')
    file:write 'step,layer,rank,e0,e1\n'
    for step = 0, 7 do
      for rank = 0, 1 do file:write(('%d,0,%d,%d,5\n'):format(step, rank, 9 + step)) end
    end
    file:close()
    local replay = ('replay --trace %s --slots 2 --policy laer '):format(csv)
    assert.are.equal(0, (run(replay)))
    local one = show('1 --steps')[1]
    assert.are.same({ 'replay', 'laer', 8 },
      { one.kind, one.results[1].policy, #one.results[1].metrics })
    assert.are.equal(0, (program.run(replay .. '--no-store')))
    local status, _, err = run((replay:gsub('laer', 'laer:windw=3')))
    assert.are.same({ 2, 1 }, { status, #show '' }, err)
    status, _, err = run(replay .. '--policy tests/policies/fails.lua')
    assert.are.same({ 3, 2 }, { status, #show '' })
    assert.are.same({ 'done', 3 }, { show ''[2].state, show ''[2].exit_status })
    assert.matches('\nneap: [^\n]+%(and %d+ times more%)\n', err)
    os.remove(csv)
  end)

  it('tags, notes, finds and removes', function()
    local replay = 'replay --trace experiments/traces/e8k2.safetensors --window 22 --policy '
    for _, policy in ipairs { 'static', 'laer', 'hot' } do run(replay .. policy) end
    assert.are.equal(0, (run "runs 2..3 --set-tag good,new --set-note 'it'\\''s faster'"))
    local list = show '--tag good'
    assert.are.same({ 2, 2, { 'good', 'new' }, "it's faster" },
      { #list, list[1].id, list[1].tags, list[2].note })
    assert.are.same({ 'new' }, show '2 --remove-tag good'[1].tags)
    assert.are.equal(1, #show '--tag good')
    assert.are.equal(3, show '--with-policy hot'[1].id)
    assert.are.equal(0, #show '--kind run')
    local out = select(2, run 'runs')
    assert.matches("\n  2  done +replay  %d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d +[%d.]+ s +1 +laer%S* "
      .. "+%- +new +it's faster", out)
    assert.matches('\ntags +new\n', select(2, run 'runs 2'))
    local status, _, err = run 'runs --tag god'
    assert.are.equal(2, status)
    assert.matches("no run has the tag 'god' .*; there are: good, new", err)
    assert.matches('which runs?', select(3, run 'runs --remove'))
    assert.are.equal(0, (run 'runs --tag good --remove'))
    list = show ''
    assert.are.same({ 2, 1, 2 }, { #list, list[1].id, list[2].id })
    assert.are.equal(0, (run 'runs 1..2 --remove'))
    assert.are.equal(0, #show '')
  end)

  it('says what is wrong', function()
    local status, _, err = run 'runs'
    assert.are.same({ 2, 'neap: ' .. path .. ': no such run store; neap run and neap replay make '
      .. 'one (--store FILE)\n' }, { status, err })
    local file = io.open(path, 'w')
    file:write(('nonsense'):rep(1000))
    file:close()
    assert.are.equal(5, (run 'runs'))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- neap run --checkpoint and --resume: a training that was ended in the middle goes on as if it had
-- not been, on whatever it then runs on; and what is damaged or does not fit is told.

local checkpoint = require 'neap.engine.checkpoint'
local folders = require 'neap.train.checkpoint_folder'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local program = require 'tests.cli.program'
local provenance = require 'neap.runs.provenance'
local sources = require 'neap.base.sources'
local store = require 'neap.runs.store'

local RECIPE = 'tests/cli/recipes/saved.lua'

local made = {}

local function new_folder()
  local path = os.tmpname()
  os.remove(path)
  made[#made + 1] = path
  return path
end

local function run(arguments, processes)
  local text = ('run %s --json %s'):format(RECIPE, arguments)
  if processes then return program.mpirun(processes, text) end
  return program.run(text)
end

local function rows(arguments, processes)
  local status, out, err = run(arguments, processes)
  assert.are.equal(0, status, err)
  return json.decode(out).rows, err
end

--- A folder with checkpoints of a run that was killed after so many steps; there is one of every
-- third step.
local function killed(after, arguments, processes)
  local folder = new_folder()
  local status, out, err = run(('--checkpoint=%s --checkpoint-every=3 --die=%d %s'):format(folder,
    after, arguments or ''), processes)
  assert.are_not.equal(0, status, out)
  return folder, err
end

local function resume(folder, arguments, processes)
  return rows(('--checkpoint=%s --resume --pause=0 --die=0 %s'):format(folder,
    arguments or ''), processes)
end

local whole -- the row of a run that nothing ends

describe('a training that was killed', function()
  setup(function() whole = rows('')[1] end)

  teardown(function()
    for _, path in ipairs(made) do os.execute(("rm -rf '%s'"):format(path)) end
  end)

  it('goes on to the same bits, on other ranks, nodes, slots, under other policies', function()
    local folder = killed(8)
    for i, how in ipairs { '', '-n 1 --slots=7', '-n 5 --node-size=3 --slots=2', '-n 8 --slots=2',
      '--policies=static', '-n 4 --policies=minimax+even --shard-group=2',
      '--schedule=neap:recompute=true --in-process', '-n 2 --slots=4 --schedule=none' } do
      local copy = new_folder()
      os.execute(("cp -r '%s' '%s'"):format(folder, copy))
      local row, err = resume(copy, how)
      assert.are.equal(whole.digest, row[1].digest, how)
      assert.are.same(whole.losses, row[1].losses, how)
      assert.are.equal(12, row[1].steps)
      assert.are.equal(2, #row[1].segments)
      assert.are.equal(6, row[1].segments[2].step)
      assert.is_truthy(err:find('goes on after step 6', 1, true), err)
      if i == 1 then assert.is_truthy(err:find('step 6; die 0 instead of 8\n', 1, true), err) end
    end
  end)

  it('from sharded experts to resident ones and back', function()
    local runs, exported = { '', '--shard-group=resident',
      '-n 4 --shard-group=resident --ep=2 --slots=5 --policies=static' }, {}
    local ways = { { '-n 6 --shard-group=resident --ep=3', '--shard-group=resident' },
      { '--shard-group=all', '-n 4 --shard-group=resident --ep=2 --slots=5' },
      { '--shard-group=node --ep=0', '-n 2 --ep=0 --policies=ultraep:on=current' } }
    for i, arguments in ipairs(runs) do
      local from = killed(8, arguments)
      for _, how in ipairs(ways[i]) do
        local copy = new_folder()
        os.execute(("cp -r '%s' '%s'"):format(from, copy))
        assert.are.equal(whole.digest, resume(copy, how)[1].digest, i .. ' ' .. how)
      end
      exported[i] = new_folder()
      local status, _, err = program.run(('checkpoint export %s %s --optimizer'):format(from,
        exported[i]))
      assert.are.equal(0, status, err)
      local file = assert(io.open(exported[i], 'rb'))
      exported[i] = file:read '*a'
      file:close()
    end
    local function data(text)
      local length = lib.ffi.cast('const uint64_t *', text)[0]
      return text:sub(tonumber(length) + 9)
    end
    assert.is_true(#data(exported[1]) > 1e4)
    assert.are.equal(data(exported[1]), data(exported[2]))
    assert.are.equal(data(exported[1]), data(exported[3]))
  end)

  it('with experts and tokens that travel in FP8, whose shards are cut at other places', function()
    local fp8 = '--unshard=fp8 --dispatch=fp8 '
    local digest, folder = rows(fp8)[1].digest, killed(8, fp8)
    assert.are_not.equal(whole.digest, digest)
    local copy = new_folder()
    os.execute(("cp -r '%s' '%s'"):format(folder, copy))
    assert.are.equal(digest, resume(folder, fp8 .. '-n 2 --slots=4')[1].digest)
    local row, err = resume(copy, '--unshard=dtype --dispatch=dtype -n 5 --slots=2')
    assert.are.equal(12, row[1].steps)
    assert.is_truthy(err:find('unshard dtype instead of fp8', 1, true), err)
    assert.are_not.equal(digest, row[1].digest)
  end)

  it('on processes of mpirun too, from threads and to threads', function()
    local folder = killed(7)
    assert.are.equal(whole.digest, resume(folder, '--node-size=2 --slots=4', 2)[1].digest)
    folder = killed(7, '--slots=4', 2)
    assert.are.equal(whole.digest, resume(folder, '-n 3')[1].digest)
  end)

  it('with what today\'s models have: sigmoids, biases that are moved', function()
    local model = '--scores=sigmoid --bias-rate=0.01 --no-renormalise --shared-experts=1 '
      .. '--dense-layers=1 --layers=3 --dtype=bf16 --router-f32 '
    local never = rows(model)[1]
    assert.are_not.equal(whole.digest, never.digest)
    local folder = killed(8, model)
    assert.are.equal(never.digest, resume(folder, model .. '-n 2 --slots=4')[1].digest)
    local out = select(2, program.run('checkpoint info ' .. folder))
    assert.matches('3 layers, the first 1 dense, hidden 16, 7 experts', out)
  end)

  it('under an optimizer, rates and a loss of the recipe\'s', function()
    local never = rows('--own')[1]
    assert.are.equal(never.digest, rows('--own -n 1 --slots=7')[1].digest)
    local folder = killed(8, '--own')
    assert.are.equal(never.digest, resume(folder, '--own -n 2 --slots=4')[1].digest)
  end)

  it('again and again', function()
    local folder = killed(4)
    for _, after in ipairs { 4, 3 } do
      local status = run(('--checkpoint=%s --checkpoint-every=3 --resume --die=%d -n %d'):format(
        folder, after, after))
      assert.are_not.equal(0, status)
    end
    local row = resume(folder)[1]
    assert.are.equal(whole.digest, row.digest)
    assert.are.equal(4, #row.segments)
  end)

  it('in any of the trainings of a recipe', function()
    local both = '--policies=static,minimax --steps=5 '
    local expected = rows(both)
    local folder = killed(9, both)
    assert.are.same({ 1, 2 }, folders.trainings(folder))
    local got, err = resume(folder, '')
    assert.are.equal(expected[1].digest, got[1].digest)
    assert.are.equal(expected[2].digest, got[2].digest)
    assert.are.equal(5, got[1].steps)
    assert.is_truthy(err:find('static: goes on after step 5', 1, true), err)
    assert.is_nil(err:find 'trained 1 step')
  end)

  it('within rounding without exact sums, and in bf16', function()
    for _, how in ipairs { '--no-exact', '--dtype=bf16' } do
      local expected = rows(how)[1]
      local row = resume(killed(8, how), '-n 2 --slots=4')[1]
      for step, loss in ipairs(expected.losses) do
        assert.is_true(math.abs(loss - row.losses[step]) <= 2e-4 * loss, how .. ' ' .. step)
      end
    end
    local narrow = resume(killed(8), '--dtype=bf16')[1]
    assert.are.equal(whole.losses[3], narrow.losses[3])
    assert.is_true(math.abs(whole.loss - narrow.loss) < 0.02)
  end)

  it('has a whole record', function()
    local path = new_folder() .. '.db'
    made[#made + 1] = path
    local function record(arguments, expected)
      local status, _, err = run(('--in-process --store=%s %s'):format(path, arguments))
      assert.are.equal(expected, status == 0, err)
    end
    local folder = new_folder()
    record('', true)
    record(('--checkpoint=%s --checkpoint-every=3 --die=8'):format(folder), false)
    record(('--checkpoint=%s --resume --die=0'):format(folder), true)
    local runs = store.open(path)
    local function steps(number)
      return runs:rows('SELECT s.* FROM steps s JOIN results r ON r.id = s.result WHERE r.run = ? '
        .. 'ORDER BY s.step', number)
    end
    local first, last = steps(1), steps(3)
    assert.are.equal(12, #first)
    assert.are.equal(12, #last)
    for i, row in ipairs(first) do
      for _, column in ipairs { 'step', 'loss', 'imbalance', 'imbalance_max', 'slots_changed',
        'layouts', 'bytes_tokens', 'bytes_unshard', 'faults', 'inter_node_share' } do
        assert.are.equal(row[column], last[i][column], column .. ' of step ' .. i - 1)
      end
    end
    runs:close()
  end)

  it('has a whole trace', function()
    local trace, other = new_folder(), new_folder()
    made[#made + 1] = trace .. '.earlier'
    rows('--in-process --trace=' .. other)
    local folder = killed(8, '--in-process --trace=' .. trace)
    resume(folder, '--in-process')
    local status, out = program.run('trace info ' .. trace)
    assert.are.equal(0, status)
    assert.is_truthy(out:find '12 steps', out)
    local traces = require 'neap.engine.trace'
    local a, b = traces.open(other), traces.open(trace)
    for step = 0, 11 do
      for layer = 0, 1 do
        local x, y = a:load(step, layer), b:load(step, layer)
        for i = 0, 3 * 7 - 1 do assert.are.equal(x[i], y[i]) end
      end
    end
  end)
end)

describe('what a policy keeps', function()
  it('goes on where it hooks save and restore, in a worker and in the rank', function()
    for _, how in ipairs { '', '--in-process' } do
      local path = new_folder() .. '.db'
      made[#made + 1] = path
      local folder, policy = new_folder(), '--policies=tests/policies/counts.lua '
      local status, _, err = run(policy .. how .. ' --store=' .. path)
      assert.are.equal(0, status, err)
      run(('%s %s --checkpoint=%s --checkpoint-every=3 --die=8 --store=%s'):format(
        policy, how, folder, path))
      local out
      status, out, err = run(('--checkpoint=%s --resume --die=0 --store=%s %s')
        :format(folder, path, how))
      assert.are.equal(0, status, err)
      assert.are.equal('restored', json.decode(out).rows[1].segments[2].policy_state)
      local runs = store.open(path)
      local layouts = {}
      for i = 1, 2 do
        layouts[i] = {}
        for _, row in ipairs(runs:rows('SELECT s.layouts FROM steps s JOIN results r ON r.id = '
          .. 's.result WHERE r.run = ? ORDER BY s.step', 2 * i - 1)) do
          layouts[i][#layouts[i] + 1] = row.layouts
        end
      end
      runs:close()
      assert.are.equal(12, #layouts[1])
      if how ~= '' then assert.are.same(layouts[1], layouts[2]) end
    end
  end)

  it('begins anew without them, and under another policy, and says so', function()
    local folder = killed(8, '--policies=tests/policies/forgets.lua')
    local copy = new_folder()
    os.execute(("cp -r '%s' '%s'"):format(folder, copy))
    local row, err = resume(folder)
    assert.are.equal('began anew', row[1].segments[2].policy_state)
    assert.is_truthy(err:find('forgets.lua has no hook save', 1, true), err)
    row, err = resume(copy, '--policies=laer')
    assert.is_nil(row[1].segments[2].policy_state)
    assert.is_truthy(err:find('policy laer instead of tests/policies/forgets.lua', 1, true), err)
    assert.are.equal(whole.digest, row[1].digest)
  end)

  it('is a fault where a hook fails', function()
    local folder = killed(8, '--policies=tests/policies/counts.lua:fault=save')
    local row, err = resume(folder, '--policies=tests/policies/counts.lua:fault=')
    assert.is_true(row[1].faults > 0)
    assert.are.equal('began anew', row[1].segments[2].policy_state)
    assert.is_truthy(err:find('hook save of policy counts.lua failed', 1, true), err)
    folder = killed(8, '--policies=tests/policies/counts.lua:fault=restore')
    row, err = resume(folder)
    assert.are.equal(2, row[1].faults)
    assert.is_truthy(err:find 'counts.lua:%d+: restore at step %d+, layer 0: restore is told to f',
      err)
  end)
end)

describe('checkpoints that are damaged', function()
  local function damage(path, at)
    local file = io.open(path, 'r+b')
    local size = file:seek 'end'
    at = math.floor(at * (size - 1))
    file:seek('set', at)
    local byte = file:read(1):byte()
    file:seek('set', at)
    file:write(string.char(bit.bxor(byte, 64)))
    file:close()
  end

  it('are passed over for an older one', function()
    for i, name in ipairs { 'manifest.json', 'rank-00000.safetensors', 'rank-00002.safetensors' } do
      local folder = killed(11)
      local steps = folders.steps(folder, 1)
      damage(steps[1].path .. '/' .. name, i / 4)
      local row, err = resume(folder, '-n 2 --slots=4')
      assert.are.equal(whole.digest, row[1].digest)
      assert.are.equal(steps[2].step, row[1].segments[2].step)
      assert.is_truthy(err:find(('checkpoint of step %d: '):format(steps[1].step), 1, true), err)
      assert.is_truthy(err:find(name, 1, true), err)
    end
  end)

  it('end the run with status 5 if there is no other', function()
    local folder = killed(8)
    for _, entry in ipairs(folders.steps(folder, 1)) do
      if entry.whole then damage(entry.path .. '/rank-00001.safetensors', 0.5) end
    end
    local status, out, err = run('--resume --die=0 --checkpoint=' .. folder)
    assert.are.equal(5, status)
    assert.are.equal('', out)
    assert.is_truthy(err:find('checkpoints of training 1 can be read', 1, true), err)
  end)
end)

describe('the options of checkpoints', function()
  local function refused(pattern, arguments)
    local status, _, err = program.run('run ' .. arguments)
    assert.are.equal(2, status, err)
    assert.is_truthy(err:find(pattern), err)
    local _, lines = err:gsub('neap: ', '')
    assert.are.equal(1, lines, err)
  end

  it('refuse a folder of another recipe or model', function()
    local folder = killed(5)
    refused('is of recipe saved .*not of quickstart',
      'experiments/quickstart.lua --resume --checkpoint=' .. folder)
    for option, pattern in pairs { ['--hidden=32'] = 'hidden is 16 there and 32 here',
      ['--experts=8'] = 'experts is 7 there and 8 here', ['--layers=3'] = 'layers is 2 there',
      ['--ffn=5'] = 'ffn is 6,12,3,9,6,15,3 there and 5 here', ['--heads=1'] = 'heads is 2 there',
      ['--top-k=1'] = 'top_k is 2 there and 1 here' } do
      refused('is of another model: ' .. pattern, ('%s --resume --checkpoint=%s %s'):format(RECIPE,
        folder, option))
    end
    -- what its own process finds out, past the command line
    local manifest = folders.newest(folder)
    manifest.parameters.hidden, manifest.path, manifest.crc32 = '32', nil, nil
    for _, entry in ipairs(folders.steps(folder, 1)) do
      if entry.whole then
        checkpoint.seal(folders.manifest_path(entry.path), json.encode(manifest))
      end
    end
    refused('is of another model: hidden is 16 there and 32 here',
      ('%s --resume --checkpoint=%s'):format(RECIPE, folder))
  end)

  it('refuse a folder that is in use, or that has checkpoints that nobody asked for', function()
    local folder = killed(5)
    refused('has checkpoints of another run', ('%s --checkpoint=%s'):format(RECIPE, folder))
    local lock = checkpoint.lock(folder .. '/lock')
    refused('another run is writing its checkpoints there', ('%s --resume --checkpoint=%s')
      :format(RECIPE, folder))
    lock:close()
  end)

  it('are checked', function()
    refused('%-%-checkpoint is empty', RECIPE .. ' --checkpoint=')
    refused('go with %-%-checkpoint=FOLDER', RECIPE .. ' --resume')
    refused('go with %-%-checkpoint=FOLDER', RECIPE .. ' --checkpoint-every=3')
    for _, every in ipairs { '0', 'x', '10m', '-1', '1.5', '10 min' } do
      refused('%-%-checkpoint%-every', ("%s --checkpoint=/tmp --checkpoint-every='%s'"):format(
        RECIPE, every))
    end
    refused('checkpoint%-keep', RECIPE .. ' --checkpoint=/tmp --checkpoint-keep=0')
  end)

  it('tell of a folder that cannot be', function()
    local status, _, err = run '--checkpoint=/proc/none'
    assert.are.equal(1, status)
    assert.is_truthy(err:find '/proc/none: cannot be made a folder', err)
  end)

  it('keep as many as asked for, and begin at 0 where there is none yet', function()
    local folder = new_folder()
    local row, err = rows(('--checkpoint=%s --checkpoint-every=2 --checkpoint-keep=3 --resume '
      .. ''):format(folder))
    assert.is_truthy(err:find('no checkpoint of training 1 yet', 1, true), err)
    assert.is_nil(row[1].segments)
    local steps = folders.steps(folder, 1)
    assert.are.equal(3, #steps)
    assert.are.equal(12, steps[1].step)
    for _, entry in ipairs(steps) do assert.is_true(entry.whole) end
    local manifest = folders.manifest(steps[1].path)
    assert.are.equal('saved', manifest.recipe.name)
    assert.are.equal(provenance.source_hash(launcher.home .. '/experiments/policies/laer.lua'),
      manifest.policy.sha256)
    assert.are.equal(provenance.source_hash(RECIPE), manifest.recipe.sha256)
    assert.are_not.equal(provenance.sha256(sources.read(RECIPE)), manifest.recipe.sha256)
    assert.are.equal('0.02', manifest.parameters.rate)
  end)

  it('by time', function()
    local folder = new_folder()
    rows(('--checkpoint=%s --checkpoint-every=1s --pause=0.3 --checkpoint-keep=9'):format(folder))
    local steps = folders.steps(folder, 1)
    assert.is_true(#steps >= 2 and #steps <= 5, #steps .. ' checkpoints')
    local long = os.getenv 'NEAP_LONG' and 7 or 0.2 -- 12 steps: more than a minute, or less
    folder = new_folder()
    rows(('--checkpoint=%s --checkpoint-every=1min --pause=%g'):format(folder, long))
    assert.are.equal(long > 5 and 2 or 1, #folders.steps(folder, 1))
  end)

  it('say that a recipe has nothing to save', function()
    local status, _, err = program.run(('run tests/cli/recipes/probe.lua --checkpoint=%s'):format(
      new_folder()))
    assert.are.equal(0, status, err)
    assert.is_truthy(err:find('the recipe has no training', 1, true), err)
  end)
end)

describe('a signal', function()
  --- Starts a slow run in a session of its own, calls f(its process id) when it has trained some
  -- steps, and returns its exit status and what it said.
  local function signalled(folder, command, f)
    local err = os.tmpname()
    local pipe = io.popen(("export NEAP_STORE=; setsid sh -c 'echo $$; exec %s' 2>'%s'; echo "
      .. 'status $?'):format(command:format(program.path, RECIPE, folder), err))
    local pid = tonumber(pipe:read '*l')
    for _ = 1, 600 do
      local file = io.open(err)
      local said = file:read '*a'
      file:close()
      if said:find 'step 3' then break end
      launcher.sleep(0.05)
    end
    f(pid)
    local status = tonumber(pipe:read('*a'):match 'status (%d+)')
    pipe:close()
    local file = io.open(err)
    local said = file:read '*a'
    file:close()
    os.remove(err)
    return status, said
  end

  local ALL = "for s in /proc/[0-9]*/stat; do set -- $(cat $s 2>/dev/null | sed 's/(.*)/x/'); "
    .. '[ "$6" = %d ] && kill -%s $1; done'

  it('lets the run write a last checkpoint, whether it comes to one process or to all', function()
    local threads = '%s run %s --steps=500 --pause=0.05 --checkpoint=%s --checkpoint-every=1h'
    for i, how in ipairs { 'kill -TERM %d', 'kill -INT %d', 'TERM', 'INT' } do
      local folder = new_folder()
      local status, said = signalled(folder, threads, function(pid)
        os.execute(i < 3 and how:format(pid) or ALL:format(pid, how))
      end)
      assert.are.equal(130, status, said)
      local step = tonumber(said:match 'interrupted after step (%d+); its checkpoint is in')
      assert.is_truthy(step, said)
      assert.is_nil(said:find('policy ', 1, true), said) -- no fault: the policy still answers
      assert.are.equal(step, folders.steps(folder, 1)[1].step)
      local row = resume(folder, ('--steps=%d'):format(step + 2))
      assert.are.equal(step + 2, row[1].steps)
    end
  end)

  -- mpirun waits, passes SIGTERM on, waits as long again and kills; it no longer passes on what
  -- the ranks say.
  it('or to mpirun', function()
    local folder = new_folder()
    local status, said = signalled(folder, 'env OMPI_ALLOW_RUN_AS_ROOT=1 '
      .. 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --mca odls_base_sigkill_timeout '
      .. '5 -n 2 %s run %s --slots=4 --steps=5000 --pause=0.05 --checkpoint=%s '
      .. '--checkpoint-every=1h',
      function(pid) os.execute(('kill -TERM %d'):format(pid)) end)
    assert.are_not.equal(0, status, said)
    local last = folders.steps(folder, 1)[1]
    assert.is_true(last.whole)
    local row = resume(folder, ('--steps=%d'):format(last.step + 2))
    assert.are.equal(last.step + 2, row[1].steps)
  end)

  it('ends a run without checkpoints at once', function()
    local status = signalled('', '%s run %s --steps=500 --pause=0.05 %s', function(pid)
      os.execute(('kill -TERM %d'):format(pid))
    end)
    assert.are.equal(143, status)
  end)
end)


describe('50 kills at random moments, 1,000 flips and 3 resumes', function()
  it('leave nothing damaged, and trainings that go on to the same digest', function()
    local status, out, err = program.shell(("NEAP_PROGRAM='%s' tests/checkpoints.sh"):format(
      program.path))
    assert.are.equal(0, status, out .. err)
    assert.matches('%d+ runs went on', out)
    assert.matches('1000 flips found, 0 not', out)
  end)
end)

describe('a disk that fails', function()
  local sanitized = (os.getenv 'NEAP_SANITIZED' or '') ~= ''
  local check = sanitized and pending or it -- a sanitizer wants to be loaded first

  check('at any write, sync, rename or mkdir leaves the older checkpoint, and the run', function()
    local before = killed(5)
    for number, name in pairs { [28] = 'No space', [5] = 'Input/output error' } do
      local told, at = 0, 0
      repeat
        local folder = new_folder()
        os.execute(("cp -r '%s' '%s'"):format(before, folder))
        local status, out, err = program.shell(("LD_PRELOAD='%s/tests/libbad_disk.so' "
          .. "BAD_DISK_FOLDER='%s' BAD_DISK_AT=%d BAD_DISK_ERRNO=%d '%s' run %s --json --resume "
          .. '--steps=7 --die=0 --checkpoint=%s --checkpoint-every=3'):format(launcher.folder,
          folder, at, number, program.path, RECIPE, folder))
        local failed = err:find(name, 1, true) ~= nil
        told = told + (failed and 1 or 0)
        assert.is_truthy(out:find '"digest"', err) -- the training has come to its end
        assert.is_true(status == 0 or status == 1, err)
        local checked, _, why = program.run('checkpoint check ' .. folder)
        assert.are.equal(0, checked, why)
        assert.is_true(#folders.steps(folder, 1) >= 1)
        at = at + (os.getenv 'NEAP_LONG' and 1 or 9)
      until not failed
      assert.is_true(told >= 6, ('%d calls failed'):format(told))
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- What goes wrong around a run, and what is said of it: before the first step where that can be.

local program = require 'tests.cli.program'

local SIZES = ' --policies=static --layers=1 --hidden=16 --heads=1 --kv-heads=1 --experts=4 '
  .. '--ffn=16 --slots=2 --batch=4 --sequence=16 --steps=4 -n 2 --no-store --trace= '

--- Options of a small training, with those that are given in the place of its own.
local function small(given)
  local text = SIZES
  for name in given:gmatch '%-%-[%w-]+' do
    text = text:gsub(name:gsub('%-', '%%-') .. '=?%S* ', '')
  end
  return text .. given
end

local TRACE = 'experiments/traces/quickstart.safetensors'

local function write(path, text)
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
end

describe('before the first step', function()
  local function refused(arguments, pattern)
    local status, _, errors = program.run(arguments)
    assert.are.equal(2, status, arguments .. errors)
    assert.matches(pattern, errors)
    assert.is_nil(errors:find 'traceback', errors)
    assert.is_nil(errors:find '1/4', errors) -- no step's progress
  end
  local function run(given)
    return 'run experiments/quickstart.lua' .. small(given)
  end


  it('every policy of a list is loaded', function()
    local path = os.tmpname() .. '.lua'
    refused(run('--policies=static,nosuch'), "unknown policy 'nosuch'")
    refused(run('--policies=static,laer:windw=3'), "unknown parameter 'windw'")
    write(path, 'return 1')
    refused(run('--policies=static,' .. path), 'must return what policy.define')
    refused(('replay --trace %s --slots 4 --policy static --policy %s'):format(TRACE, path),
      'must return what policy.define')
    write(path, 'error "broken"')
    local status, _, errors = program.run(run('--policies=static,' .. path))
    assert.are.equal(1, status)
    assert.matches('broken', errors)
    os.remove(path)
  end)

  it('files that will be written are tried', function()
    refused(run('--trace=/nowhere/x.safetensors'), '%-%-trace: /nowhere/x.safetensors: No such')
    refused(run('--timeline=/nowhere/x.json'), '%-%-timeline: /nowhere/x.json: No such')
    refused(('report --trace %s --slots 4 -o /nowhere/x.html'):format(TRACE), '%-%-output: /now')
    refused('simulate --timeline /nowhere/x.json', '%-%-timeline: /nowhere/x.json: No such')
  end)

  it('numbers that the engine cannot count to are refused', function()
    for _, option in ipairs { '--steps', '--batch', '--ffn', '--experts', '--seed' } do
      refused(run(option .. '=4294967297'), option:gsub('%-', '%%-') .. ' is 4294967297; it can')
    end
    for _, option in ipairs { '--slots', '--node-size', '--window', '--seed' } do
      refused(('replay --trace %s %s 4294967297'):format(TRACE, option),
        option:gsub('%-', '%%-') .. " is '4294967297'")
    end
    refused('sweep replay seed=0..5000000000', 'more than 100000 values')
  end)

  it('needs no folder of the user', function()
    local status, _, errors = program.shell(("env -u HOME -u XDG_DATA_HOME -u JUPYTER_DATA_DIR "
      .. "'%s' kernel install"):format(program.path))
    assert.are.equal(2, status)
    assert.matches('HOME is not set.*%-%-prefix', errors)
  end)

  it('a table that has values without names is named', function()
    local path = os.tmpname()
    for text, pattern in pairs {
      ['return { 5, ranks = 8 }'] = "unknown field '1'",
      ['return { [true] = 5, ranks = 8 }'] = "unknown field 'true'",
      ['error(setmetatable({}, { __tostring = function() error "no" end }))'] =
        'an error without a text',
    } do
      write(path .. '.lua', text)
      refused('simulate --cluster ' .. path .. '.lua', pattern)
    end
    write(path .. '.lua', 'return { "x", grid = { seed = 1 } }')
    refused('sweep ' .. path .. '.lua', "unknown field '1'")
    os.remove(path .. '.lua')
    os.remove(path)
  end)
end)

describe('a program that is missing', function()
  it('is named, with its package', function()
    local out = os.tmpname() .. '.csv.gz'
    local status, _, errors = program.shell(('PATH=/nowhere %s trace export %s %s'):format(
      program.path, TRACE, out))
    assert.are.equal(1, status)
    assert.matches('gzip is not installed; run: apt%-get install gzip', errors)
    assert.is_nil(io.open(out))
    status, _, errors = program.run(('trace export %s %s'):format(TRACE, out))
    assert.are.equal(0, status, errors)
    assert.are.equal(0, (program.run('trace info ' .. out)))
    os.remove(out)
  end)

  it('and would only have told where a run comes from, is not missed', function()
    local path = os.tmpname()
    os.remove(path)
    for _, command in ipairs { ('replay --trace %s --slots 4 --policy static'):format(TRACE),
      'run experiments/quickstart.lua' .. SIZES:gsub('%-%-no%-store', '') } do
      local status, _, errors = program.shell(('PATH=/nowhere %s %s --store %s'):format(
        program.path, command, path))
      assert.are.equal(0, status, errors)
      assert.is_nil(errors:find 'not found', errors)
    end
    local store = require('neap.runs.store').open(path)
    for _, row in ipairs(store:runs()) do
      assert.are.equal('done', row.state)
      assert.is_nil(row.git_commit)
    end
    store:close()
    for _, suffix in ipairs { '', '-wal', '-shm' } do os.remove(path .. suffix) end
  end)

  it('or fails, is told with what it said', function()
    local programs = require 'neap.base.programs'
    local ok, err = pcall(programs.feed, 'ls /nowhere', 'coreutils', 'x')
    assert.is_false(ok)
    assert.matches('^ls failed: .*No such file', err.message)
    ok, err = pcall(programs.feed, 'false', 'coreutils', ('x'):rep(1e6))
    assert.is_false(ok)
    assert.matches('false failed: it did not say why', err.message)
  end)
end)

describe('a process', function()
  local command = program.path .. ' run experiments/quickstart.lua'
  local run = command .. SIZES

  it('without stdin, stdout or stderr runs, and tells that results went nowhere', function()
    local status, _, errors = program.shell(run .. '<&- >&-')
    assert.are.equal(1, status)
    assert.matches('results could not be written to stdout: Bad file descriptor', errors)
    assert.are.equal(1, (program.shell(run .. '<&- >&- 2>&-')))
    status, _, errors = program.shell(run .. '>/dev/full')
    assert.are.equal(1, status)
    assert.matches('results could not be written to stdout: No space left', errors)
    assert.are.equal(0, (program.shell(run .. '<&- 2>&-')))
  end)

  it('that cannot write its results says so, whatever the command', function()
    for _, arguments in ipairs { '--help', '--version', 'policy list', 'completion bash', 'doctor',
      'run --help', 'replay --no-store --policy static --trace ' .. TRACE, 'trace info ' .. TRACE,
      'trace plot ' .. TRACE, 'lua /dev/stdin' } do
      local status, _, errors = program.shell(("echo 'print(1) os.exit(0)' | '%s' %s >/dev/full")
        :format(program.path, arguments))
      assert.are.equal(1, status, arguments)
      assert.matches('results could not be written to stdout: No space left', errors)
    end
  end)

  it('that cannot write a file says so, and leaves what was there', function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute('mkdir ' .. folder)
    local svg, store = folder .. '/x.svg', (' --store %s/runs.db '):format(folder)
    program.run('replay --policy static --trace ' .. TRACE .. store)
    write(svg, 'old')
    -- A limit on the size of files is a disk that is full after so much; in units of 512 bytes.
    for arguments, limit in pairs {
      ['trace export ' .. TRACE .. ' ' .. svg] = 1,
      ['trace plot --out ' .. svg .. ' ' .. TRACE] = 1,
      ['report -o ' .. svg .. ' --run 1 ' .. store] = 100,
      ['simulate --no-store --layers 1 --steps 1 --policy static --timeline ' .. svg] = 100,
    } do
      local status, out, errors = program.shell(("ulimit -f %d; '%s' %s"):format(limit,
        program.path, arguments))
      assert.are.equal(1, status, arguments .. errors)
      assert.matches(svg .. ': cannot be written: File too large', errors)
      assert.is_nil(out:find(svg, 1, true))
      assert.is_nil(errors:find(svg .. ': %d+ steps'))
      assert.are.equal('old', (io.open(svg):read '*a'))
      assert.is_nil(io.open(svg .. '.part'))
    end
    for _, arguments in ipairs { 'report --run 1 -o /dev/full' .. store,
      'compare --out /dev/full' .. store, 'trace export ' .. TRACE .. ' /dev/full',
      'trace plot --out /dev/full ' .. TRACE, 'try laer --picture /dev/full --trace ' .. TRACE } do
      local status, _, errors = program.run(arguments)
      assert.are.equal(1, status, arguments)
      assert.matches('/dev/full: cannot be written: No space left', errors)
      assert.are.equal(0, os.execute 'test -c /dev/full')
    end
    program.shell(('ln -s x.svg %s/link; chmod 640 %s'):format(folder, svg))
    assert.are.equal(0, (program.run(('trace plot --out %s/link %s'):format(folder, TRACE))))
    local _, listing = program.shell(('cd %s; readlink link; stat -c %%a x.svg; head -c 4 x.svg')
      :format(folder))
    assert.are.equal('x.svg\n640\n<svg', listing)
    os.execute('rm -r ' .. folder)
  end)

  it('with few open files runs, or says what it lacks', function()
    assert.are.equal(0, (program.shell('ulimit -n 65; ' .. run)))
    local status, _, errors = program.shell('ulimit -n 8; ' .. run)
    assert.are.equal(1, status)
    assert.matches('Too many open files', errors)
  end)

  it('whose cluster, sweep or policy calls os.exit says so', function()
    local path = os.tmpname() .. '.lua'
    write(path, 'os.exit(0)')
    for _, arguments in ipairs { 'sweep ' .. path,
      'simulate --no-store --cluster=' .. path .. ' --trace=' .. TRACE,
      'replay --no-store --in-process --slots=3 --policy=' .. path .. ' --trace=' .. TRACE } do
      local status, _, errors = program.run(arguments)
      assert.is_true(status == 1 or status == 2, arguments)
      assert.is_truthy(errors:find('os.exit(0) in a file that Neap reads', 1, true), errors)
      assert.is_nil(errors:find 'traceback', errors)
    end
    local status, _, errors = program.run('run --no-store ' .. path)
    assert.are.equal(1, status)
    assert.are.equal(('neap: %s:1: os.exit(0) in a recipe: run returns, or calls error\n')
      :format(path), errors)
    os.remove(path)
  end)

  it('whose cluster, sweep or policy raises an error names the file once', function()
    local folder = os.tmpname()
    os.remove(folder)
    local path = folder .. '/' .. ('a_long_name_'):rep(8) .. '.lua' -- Lua cuts it in messages
    os.execute('mkdir ' .. folder)
    write(path, 'error "no"')
    write(folder .. '/b.lua', 'error { message = "no" }')
    for _, file in ipairs { path, folder .. '/b.lua' } do
      for _, arguments in ipairs { 'sweep ' .. file,
        'simulate --no-store --cluster=' .. file .. ' --trace=' .. TRACE,
        'replay --no-store --slots=3 --policy=' .. file .. ' --trace=' .. TRACE } do
        local status, _, errors = program.run(arguments)
        assert.is_true(status == 1 or status == 2, arguments)
        local _, times = errors:gsub(file == path and '_name_%.lua' or 'b%.lua', '')
        assert.are.equal(1, times, errors)
      end
    end
    os.execute('rm -r ' .. folder)
  end)

  it('that is given a device does not read for ever', function()
    for device, arguments in pairs { ['/dev/zero'] = 'trace info /dev/zero',
      ['/dev/null'] = 'report --trace /dev/null -o /dev/null' } do
      local status, _, errors = program.shell(("ulimit -v 4000000; timeout -s KILL 60 '%s' %s")
        :format(program.path, arguments))
      assert.are.equal(1, status, errors)
      assert.is_truthy(errors:find(device .. ': is a device', 1, true), errors)
    end
    local status, _, errors = program.shell(
      ("ulimit -v 4000000; timeout -s KILL 60 '%s' sweep /dev/zero"):format(program.path))
    assert.are.equal(1, status, errors)
    assert.is_truthy(errors:find('/dev/zero:1:', 1, true), errors)
  end)

  it('with little address space runs, or says so, and never waits', function()
    for _, limit in ipairs { '-v', '-d' } do
      local limited = ("ulimit %s 100000; OPENBLAS_NUM_THREADS=2 timeout -s KILL 60 '%s' "):format(
        limit, program.path)
      local status, _, errors = program.shell(limited .. '--version')
      assert.are.equal(0, status, errors)
      status, _, errors = program.shell(limited .. 'replay --no-store --trace /nonexistent')
      assert.is_true(status == 1 or status == 2 or status == 5, status .. errors)
    end
  end)

  it('whose file reaches its limit says so', function()
    local path = os.tmpname()
    os.remove(path)
    local status, _, errors = program.shell(('ulimit -f 24; %s %s'):format(command,
      small(('--trace=%s --steps=60 --experts=64 --slots=32'):format(path))))
    assert.are.equal(1, status)
    assert.matches('cannot be written: File too large', errors)
    local read, out = program.run('trace info ' .. path)
    assert.are.equal(0, read, out)
    os.remove(path)
  end)

  it('bound to a processor of its own counts all of them', function()
    local path = os.tmpname() .. '.lua'
    write(path, [[
      return require('neap.train.recipe').define { name = 'count', ranks = 2,
        run = function(_, job) job:print(job.processors) end }]])
    local status, out = program.mpirun(2, 'run --no-store ' .. path)
    assert.are.equal(0, status)
    local bound, pinned = program.shell(('OMPI_ALLOW_RUN_AS_ROOT=1 '
      .. "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --bind-to core --map-by core -n 2 '%s' run "
      .. '--no-store %s'):format(program.path, path))
    if bound == 0 then assert.are.equal('2\n', pinned) end -- else: there is one core
    assert.is_true(tonumber(out) >= 1)
    os.remove(path)
  end)

  it('leaves nothing in the temporary folder when it is killed', function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute('mkdir ' .. folder)
    program.shell(("TMPDIR=%s timeout -s KILL 1 %s sweep experiments/quickstart.lua seed=0..3 "
      .. 'steps=500 --store %s/runs.db'):format(folder, program.path, folder))
    local _, listing = program.shell('ls ' .. folder .. '; ls /tmp | grep -c "^lua_.*$" || true')
    for line in listing:gmatch '[^\n]+' do
      assert.is_truthy(line:match '^runs.db' or line:match '^%d+$', line)
    end
    os.execute('rm -r ' .. folder)
  end)
end)

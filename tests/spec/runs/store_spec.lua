-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local provenance = require 'neap.runs.provenance'
local store = require 'neap.runs.store'

local C = lib.C

local function temporary()
  local path = os.tmpname()
  os.remove(path)
  return path
end

local function remove(path)
  for _, suffix in ipairs { '', '-wal', '-shm' } do os.remove(path .. suffix) end
end

local function status_of(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return err.code, err.message
end

describe('sha256', function()
  it('agrees with sha256sum for all lengths around the block', function()
    local path = os.tmpname()
    for _, length in ipairs { 0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 1000 } do
      local text = {}
      for i = 1, length do text[i] = string.char((i * 7 + length) % 256) end
      text = table.concat(text)
      local file = io.open(path, 'wb')
      file:write(text)
      file:close()
      local pipe = io.popen('sha256sum ' .. path)
      assert.are.equal(pipe:read '*a':match '^%x+', provenance.sha256(text))
      pipe:close()
    end
    os.remove(path)
  end)
end)

describe('store', function()
  local path, s
  before_each(function()
    path = temporary()
    s = store.open(path, true)
  end)
  after_each(function()
    if rawget(s, 'ptr') then s:close() end
    remove(path)
  end)

  it('gives back what was written, of every type', function()
    local id = s:insert('runs', { kind = "it's", command = 'a\0b', seed = 7, started = 1.5,
      heartbeat = 2 ^ 40, state = 'done', git_dirty = true })
    local row = s:rows('SELECT kind, command, seed, started, heartbeat, git_dirty, error FROM runs '
      .. 'WHERE id = ?', id)[1]
    assert.are.same({ kind = "it's", command = 'a\0b', seed = 7, started = 1.5,
      heartbeat = 2 ^ 40, git_dirty = 1 }, row)
    assert.are.same({}, s:rows('SELECT * FROM runs WHERE seed = ?', nil))
  end)

  it('records a run with its circumstances', function()
    local id = s:begin { kind = 'run', command = 'neap run', script = lib.home
      .. '/experiments/quickstart.lua' }
    local run = s:runs('id = ?', id)[1]
    assert.are.equal('running', run.state)
    assert.are.equal(lib.version, run.engine)
    assert.is_true(#run.host > 0 and run.pid > 1 and run.pid_start > 0)
    assert.is_true(math.abs(run.started - os.time()) < 5)
    local body = s:rows('SELECT body FROM texts WHERE sha256 = ?', run.script_sha256)[1].body
    assert.matches('quickstart', body)
    s:finish(id, 3, 'policy x')
    run = s:runs('id = ?', id)[1]
    assert.are.same({ 'failed', 3, 'policy x' }, { run.state, run.exit_status, run.error })
    assert.is_true(run.ended >= run.started)
    assert.are.equal(1, s:rows('SELECT count(*) AS n FROM texts')[1].n)
  end)

  it('tells a run whose process is gone', function()
    local id = s:begin { kind = 'run', command = 'x' }
    local function set(column, value)
      s:write(('UPDATE runs SET %s = ? WHERE id = ?'):format(column), value, id)
      return s:runs('id = ?', id)[1].state
    end
    assert.are.equal('running', set('seed', 1))
    assert.are.equal('interrupted', set('pid_start', 1))
    assert.are.equal('interrupted', set('boot', 'of yesterday'))
    assert.are.equal('running', set('host', 'elsewhere'))
    assert.are.equal('interrupted', set('heartbeat', os.time() - 3600))
  end)

  it('keeps steps back and writes them when asked, full or closed', function()
    local columns = metrics.columns()
    local values = lib.ffi.new('double[?]', #columns)
    for i = 0, #columns - 1 do values[i] = i % 2 == 0 and i + 0.5 or 0 / 0 end
    local run = s:begin { kind = 'run', command = 'x' }
    local result = s:insert('results', { run = run, policy = 'p', started = 0 })
    local other = store.open(path)
    local function count()
      return other:rows('SELECT count(*) AS n FROM steps WHERE result = ?', result)[1].n
    end
    for step = 0, 1199 do
      lib.check(C.neap_store_record(s.ptr, result, step, values, 0x123456789abcdef0ULL))
      if step == 100 and count() == 0 then
        lib.check(C.neap_store_flush(s.ptr))
        assert.are.equal(101, count())
      end
    end
    assert.is_true(count() > 1000)
    s:close()
    assert.are.equal(1200, count())
    local row = other:rows('SELECT * FROM steps WHERE step = 1199')[1]
    assert.are.equal('123456789abcdef0', row.layouts)
    for i, name in ipairs(columns) do
      assert.are.equal(i % 2 == 1 and i - 0.5 or nil, row[name])
    end
    other:close()
  end)

  it('takes writes of several connections', function()
    local other = store.open(path)
    for i = 1, 20 do
      s:insert('runs', { kind = 'a', command = 'x', started = i, heartbeat = i, state = 'done' })
      other:insert('runs', { kind = 'b', command = 'x', started = i, heartbeat = i, state = 'x' })
    end
    other:close()
    assert.are.equal(40, s:rows('SELECT count(*) AS n FROM runs')[1].n)
  end)

  it('refuses what is no store, and says which file', function()
    local wrong = temporary()
    assert.are.equal('SYSTEM', (status_of(store.open, wrong)))
    local file = io.open(wrong, 'w')
    file:write(('no database at all '):rep(100))
    file:close()
    local code, message = status_of(store.open, wrong, true)
    assert.are.equal('FORMAT', code)
    assert.matches(wrong, message, 1, true)
    remove(wrong)
    s:write 'PRAGMA user_version=99'
    code, message = status_of(store.open, path)
    assert.are.equal('FORMAT', code)
    assert.matches('later Neap', message)
    s:write 'PRAGMA application_id=1'
    assert.matches('another program', select(2, status_of(store.open, path)))
    assert.are.equal('ARGUMENT', (status_of(s.rows, s, 'SELECT nothing FROM nowhere')))
    assert.are.equal('ARGUMENT', (status_of(s.rows, s, 'SELECT 1', 2)))
  end)

  it('gives an earlier version what it lacks, and refuses a store without its tables', function()
    s:write 'DROP TABLE sweeps'
    s:write 'PRAGMA user_version=1'
    local again = store.open(path)
    assert.are.same({}, again:rows 'SELECT * FROM sweeps')
    assert.are.equal(2, again:rows('PRAGMA user_version')[1].user_version)
    again:write 'DROP TABLE steps'
    again:close()
    local code, message = status_of(store.open, path)
    assert.are.equal('FORMAT', code)
    assert.matches('has 4 of the 5 tables of a run store; move it away, or name', message)
    s:write 'DROP TABLE runs'
    s:write 'CREATE TABLE runs(id INTEGER)'
    s:write 'PRAGMA user_version=1'
    assert.matches('its tables cannot be made .*no such column', select(2, status_of(store.open,
      path)))
  end)

  --- Opens the file with columns of a step, and records a step whose values are 1, 2, …
  local function record_with(step, names)
    local out, values = lib.ffi.new 'neap_store *[1]', lib.ffi.new('double[?]', #names + 1)
    for i = 1, #names do values[i - 1] = i end
    lib.check(C.neap_store_open(path, 0, lib.ffi.new('const char *[?]', #names + 1, names), #names,
      out))
    local status = C.neap_store_record(out[0], 1, step, values, 0)
    C.neap_store_close(out[0])
    lib.check(status)
  end

  it('takes whatever columns it is opened with, and gives an older file those it lacks', function()
    s:write 'DROP TABLE steps'
    s:write('CREATE TABLE steps(result INTEGER NOT NULL, step INTEGER NOT NULL, layouts TEXT, '
      .. 'loss REAL, PRIMARY KEY(result, step)) WITHOUT ROWID')
    s:write 'INSERT INTO steps(result, step, loss) VALUES(1, 0, 7)'
    record_with(1, { 'heat', 'loss', 'group' })
    record_with(2, {})
    record_with(3, { 'loss' })
    local rows = s:rows 'SELECT * FROM steps ORDER BY step'
    assert.are.same({ result = 1, step = 0, loss = 7 }, rows[1])
    assert.are.same({ 1, 2, 3 }, { rows[2].heat, rows[2].loss, rows[2].group })
    assert.is_nil(rows[3].loss)
    assert.are.same({ nil, 1 }, { rows[4].heat, rows[4].loss })
  end)

  it('refuses columns that are none', function()
    for _, names in ipairs { { 'a', 'a' }, { 'step' }, { 'a b' }, { '' }, { '1a' }, { 'x"y' } } do
      assert.are.equal('ARGUMENT', (status_of(record_with, 0, names)))
    end
    local many = {}
    for i = 1, 257 do many[i] = 'c' .. i end
    assert.are.equal('ARGUMENT', (status_of(record_with, 0, many)))
  end)

  it('survives a damaged file with an error', function()
    for i = 1, 200 do
      s:insert('runs', { kind = ('k'):rep(500), command = 'x', started = i, heartbeat = 0,
        state = 'done' })
    end
    s:close()
    local file = io.open(path, 'r+b')
    file:seek('set', 5000)
    file:write(('\255'):rep(60000))
    file:close()
    local damaged = store.open(path)
    assert.are.equal('FORMAT', (status_of(damaged.runs, damaged)))
    damaged:close()
  end)

  it('is the same for equal configurations only', function()
    local file = lib.home .. '/experiments/quickstart.lua'
    local function keys(parameters)
      return provenance.keys { kind = 'run', files = { file }, parameters = parameters }
    end
    local key, context = keys { seed = 1, steps = 5, policies = { 'laer' } }
    assert.are.same({ key, context }, { keys { policies = { 'laer' }, steps = 5, seed = 1 } })
    local other, same = keys { seed = 2, steps = 5, policies = { 'static' } }
    assert.is_true(other ~= key and same == context)
    assert.is_true(select(2, keys { seed = 1, steps = 6, policies = { 'laer' } }) ~= context)
  end)

  it('changes with the files of a text', function()
    local own = os.tmpname()
    local function key_of(content)
      local file = io.open(own, 'w')
      file:write(content)
      file:close()
      return (provenance.keys { kind = 'run', files = {},
        parameters = { text = own .. ',english@5', steps = 3 } })
    end
    local first, second = key_of 'abc', key_of 'abd'
    assert.are_not.equal(first, second)
    assert.are.equal(first, key_of 'abc')
    os.remove(own)
  end)
end)

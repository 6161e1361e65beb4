-- SPDX-License-Identifier: Apache-2.0

--- A run's store that cannot be written while the run goes on.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local store = require 'neap.runs.store'

local ffi, C = lib.ffi, lib.C

local function shell(command)
  local pipe = io.popen(command .. ' 2>&1; echo "status $?"')
  local text = pipe:read '*a'
  pipe:close()
  return text
end

describe('a store that cannot be written', function()
  local path, s, other, values

  before_each(function()
    path = os.tmpname()
    os.remove(path)
    s = store.open(path, true)
    other = store.open(path)
    values = ffi.new('double[?]', #metrics.columns())
  end)
  after_each(function()
    if rawget(s, 'ptr') then s:close() end
    if rawget(other, 'ptr') then other:close() end
    os.execute('rm -rf ' .. path .. '*')
  end)

  --- Records a run of 3,000 steps and two results; lock: called in its middle.
  local function record(lock)
    local run = s:begin { kind = 'run', command = "it's ? here" }
    for i = 1, 2 do
      local r = s:result(run, { policy = 'static', seed = i })
      for step = 0, 2999 do
        values[0] = step
        lib.check(C.neap_store_record(s.ptr, r.id, step, values, 7))
        if step == 1500 and i == 1 then lock() end
      end
      s:notice()
      r:close { policy = "the 'last'", text = 'a\0?' }
    end
    return run
  end

  local function check_complete(db, run)
    local row = db:rows('SELECT state, command FROM runs WHERE id = ?', run)[1]
    assert.are.same({ state = 'done', command = "it's ? here" }, row)
    local results = db:rows('SELECT id, steps, summary FROM results WHERE run = ? ORDER BY id', run)
    assert.are.equal(2, #results)
    for _, result in ipairs(results) do
      assert.are.equal(3000, result.steps)
      assert.matches("the 'last'", result.summary)
      assert.are.equal(3000, db:rows('SELECT count(*) AS n FROM steps WHERE result = ? '
        .. 'AND layouts = ?', result.id, '0000000000000007')[1].n)
    end
  end

  it('gets everything once another program has let go of it', function()
    local run = record(function() other:write 'BEGIN IMMEDIATE' end)
    other:write 'ROLLBACK'
    s:finish(run, 0)
    check_complete(other, run)
  end)

  it('leaves the rest in a file beside it, which adds it', function()
    local run = record(function() other:write 'BEGIN IMMEDIATE' end)
    s.patience = 100
    s:finish(run, 0)
    s:close()
    other:write 'ROLLBACK'
    assert.are.equal('running', other:rows('SELECT state FROM runs')[1].state)
    assert.matches('status 0', shell(([[python3 -c "
import sqlite3, glob
db = sqlite3.connect('%s')
db.executescript(open(glob.glob('%s.unsaved-*.sql')[0]).read())
db.commit()"]]):format(path, path)))
    check_complete(other, run)
  end)

  it('keeps what it has when its disk is full', function()
    local run = record(function() s:write('PRAGMA max_page_count = 1') end)
    s.patience = 100
    s:finish(run, 0)
    s:close()
    local file = shell('cat ' .. path .. '.unsaved-*.sql')
    assert.matches('UPDATE runs SET state = .done.', file)
    assert.matches('INSERT OR REPLACE INTO steps', file)
    assert.are.equal('running', other:rows('SELECT state FROM runs')[1].state)
  end)

  it('can be read where nothing can be written', function()
    local run = record(function() end)
    s:finish(run, 0)
    local folder = path .. '.folder'
    local mount = ('mkdir -p %s && mount --bind %s %s && mount -o remount,ro,bind %s'):format(
      folder, folder, folder, folder)
    if not shell(("unshare -m sh -c '%s'"):format(mount)):match 'status 0' then
      return pending 'this user cannot mount, so that no folder is read-only for it'
    end
    for _, with_log in ipairs { true, false } do
      if not with_log then
        s:close()
        other:close()
      end
      local text = shell(("unshare -m sh -c 'mkdir -p %s; cp %s* %s/ 2>/dev/null; %s; cd %s; "
        .. "%s/neap runs 1 --store %s'"):format(folder, path, folder, mount, folder,
        launcher.folder, path:match '[^/]*$'))
      assert.matches('status 0', text)
      assert.matches('it.s %? here', text)
    end
    assert.are.equal('status 1\n', shell('ls -d /tmp/neap-store-* 2>/dev/null | grep -q .'))
  end)
end)

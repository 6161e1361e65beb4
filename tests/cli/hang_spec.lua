-- SPDX-License-Identifier: Apache-2.0

--- Nobody waits for ever: a rank that skips an operation, computes without end or is stopped is
-- named by one message, and the job ends with status 6; what the flight recorder tells.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local program = require 'tests.cli.program'

local SMALL = ' --layers=2 --hidden=16 --heads=1 --kv-heads=1 --experts=4 --ffn=16 --slots=4 '
  .. '--batch=4 --sequence=16 --steps=6 --no-store --timeout=1 --at=2 '

describe('a rank that hangs', function()
  local folder

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  --- Runs the recipe on 3 ranks; returns stderr and the flight recorders' paths.
  local function hang(processes, kind)
    program.shell(("rm -f '%s'/*"):format(folder))
    local command = ("'%s' run tests/cli/recipes/dies.lua %s --kind=%s --victim=1"):format(
      program.path, SMALL, kind)
    command = processes and 'OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun '
      .. '--oversubscribe -n 3 ' .. command or command .. ' -n 3'
    local began = lib.C.neap_clock()
    local status, out, err = program.shell(("NEAP_FLIGHT='%s' %s </dev/null"):format(folder,
      processes and command or command))
    assert.are.equal(6, status, out .. err)
    assert.is_true(lib.C.neap_clock() - began < 40)
    local _, told = err:gsub('neap: time%-out', '')
    assert.are.equal(1, told, err)
    return err
  end

  --- What doctor says of the recorders that are there. A process that was stopped writes one, too,
  -- when mpirun lets it go on and ends it.
  local function doctor(which)
    local status, out, err = program.shell(("'%s' doctor --flight '%s'/*%s.json"):format(
      program.path, folder, which or ''))
    assert.are.equal(0, status, err)
    return out
  end

  local long = os.getenv 'NEAP_LONG' and it or pending -- half a minute
  long('by never coming up is told by those that have', function()
    local status, _, err = program.shell(('OMPI_ALLOW_RUN_AS_ROOT=1 '
      .. "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -n 1 '%s' run "
      .. 'tests/cli/recipes/dies.lua %s : -n 1 sleep 50'):format(program.path, SMALL))
    assert.are.equal(6, status, err)
    assert.matches('neap: time%-out after 30 s: MPI does not connect the processes', err)
  end)

  for _, processes in ipairs { false, true } do
    local where = processes and 'under mpirun' or 'on threads'

    it('by skipping an operation is named with what it calls instead, ' .. where, function()
      local err = hang(processes, 'skip')
      assert.matches('time%-out after 1 s: rank 1 has not reached barrier %(operation %d+ of '
        .. 'communicator 0, step 1%), in which ranks 0 and 2 have been for %d.%d s; rank 1 has '
        .. 'been for %d.%d s in %a+', err)
      local out = doctor()
      assert.matches('^barrier %(operation %d+ of communicator 0, step 1%) has been waited in for '
        .. '%d.%d s by ranks 0, 2\nrank 1 has not reached it: it has been for', out)
    end)

    it('by computing without end is named with its last operation, ' .. where, function()
      local err = hang(processes, 'loop')
      assert.matches('rank 1 has not reached barrier .*; rank 1 has called nothing for %d.%d s, '
        .. 'since %a+', err)
      assert.matches('phase optimizer', err)
    end)
  end

  it('because its process is stopped is named', function()
    assert.matches('rank 1 has not reached .*; rank 1 does not answer: its process is stopped',
      hang(true, 'stop'))
    assert.matches('rank 1 has not reached it: there is no file of it', doctor 'rank[02]')
  end)
end)

describe('the flight recorder', function()
  it('is written by SIGUSR1 while the job goes on, and by SIGTERM', function()
    local folder = os.tmpname()
    os.remove(folder)
    local status, _, err = program.shell(([[mkdir '%s'; export NEAP_FLIGHT='%s'
      '%s' run tests/cli/recipes/dies.lua %s -n 3 & p=$!
      for i in $(seq 100); do
        sleep 0.2; kill -USR1 $p; sleep 0.2
        [ "$(cat '%s'/*.json 2>/dev/null | grep -c '"rank":')" -ge 3 ] && break
      done
      cp '%s'/*.json '%s/first'; sleep 0.2; kill $p; wait $p]]):format(folder, folder,
      program.path, (SMALL:gsub('steps=6', 'steps=100000')), folder, folder, folder))
    assert.are.equal(143, status, err)
    local file = assert(io.open(folder .. '/first'))
    local document = json.decode(file:read '*a')
    file:close()
    assert.are.same({ 'neap flight recorder', 'SIGUSR1', 3 },
      { document.format, document.reason, #document.ranks })
    local seen, most = {}, 0
    for _, one in ipairs(document.ranks) do
      seen[one.rank] = true
      assert.is_true(#one.operations <= 256)
      most = math.max(most, #one.operations)
      local before = math.huge
      for _, o in ipairs(one.operations) do
        assert.is_true(o.begun_ago <= before, 'operations in order')
        before = o.begun_ago
      end
    end
    assert.is_true(seen[0] and seen[1] and seen[2] and most > 0)
    local path = io.popen(("ls '%s'/*.json"):format(folder)):read '*l'
    file = assert(io.open(path))
    assert.are.equal('SIGTERM', json.decode(file:read '*a').reason)
    file:close()
    local _, out = program.shell(("'%s' doctor --flight '%s/first'"):format(program.path, folder))
    assert.is_true(#out > 0)
    program.shell(("rm -r '%s'"):format(folder))
  end)

  it('is not read from something else', function()
    local status, _, err = program.run 'doctor --flight README.md'
    assert.are.equal(5, status)
    assert.matches('README.md is no flight recorder', err)
  end)
end)

describe('ranks that die', function()
  it('end the job at once, with their name and the cause, and leave nothing', function()
    local status, out, err = program.shell(("tests/deaths.sh %d 11 '%s'"):format(
      os.getenv 'NEAP_LONG' and 200 or 5, require('neap.launcher').folder))
    assert.are.equal(0, status, out .. err)
  end)
end)

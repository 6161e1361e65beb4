-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'

local RANKS = launcher.home .. '/tests/spec/ranks/comm.lua'

--- Runs a command under mpirun; its output and whether it succeeded.
local function mpirun(ranks, command)
  local pipe = io.popen(('OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 '
    .. 'mpirun --oversubscribe -n %d %s/%s 2>&1; echo "exit $?"'):format(
    ranks, launcher.folder, command))
  local text = pipe:read '*a'
  pipe:close()
  return text, text:find('exit 0\n', 1, true) ~= nil
end

--- Digest of the C test's results by the number of ranks.
local function digests(text)
  local found = {}
  for ranks, digest in text:gmatch 'digest (%d+) (%x+)' do
    found[tonumber(ranks)] = digest
  end
  return found
end

describe('comm', function()
  it('does everything from Lua, on threads', function()
    for _, ranks in ipairs { 1, 2, 3, 5, 8 } do
      assert.are.equal(0, launcher.run_ranks(ranks, RANKS, {}))
    end
  end)

  it('does the same under mpirun', function()
    for _, ranks in ipairs { 1, 3 } do
      local text, ok = mpirun(ranks, 'neap lua ' .. RANKS)
      assert.is_true(ok, text)
    end
  end)

  it('gives the same bits over threads and over MPI', function()
    local pipe = io.popen(launcher.folder .. '/tests/test_comm_operations')
    local over_threads = digests(pipe:read '*a')
    pipe:close()
    for ranks = 1, 4 do
      local text, ok = mpirun(ranks, 'tests/test_comm_operations mpi')
      assert.is_true(ok, text)
      assert.is_string(over_threads[ranks])
      assert.are.equal(over_threads[ranks], digests(text)[ranks])
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- What launchers say of rank and size in the environment: the program asks in one place.

local program = require 'tests.cli.program'

local NONE = 'env -u OMPI_COMM_WORLD_RANK -u OMPI_COMM_WORLD_SIZE -u PMI_RANK -u PMI_SIZE '
  .. '-u PMIX_RANK -u SLURM_PROCID -u SLURM_NTASKS -u SLURM_STEP_NUM_TASKS '

-- The environment, and the rank and the size that it means; none: no launcher.
local CASES = {
  { '' },
  { 'OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3', 2, 3 },
  { 'OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1', 0, 1 },
  { 'OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4', 1, 2 },
  { 'PMI_RANK=3 PMI_SIZE=4', 3, 4 },
  { 'PMIX_RANK=5 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8', 5, 8 },
  { 'SLURM_PROCID=7 SLURM_STEP_NUM_TASKS=8', 7, 8 },
  { 'SLURM_PROCID=0 SLURM_NTASKS=8' }, -- a batch script, whose step is of one task
  { 'SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=1' },
  { 'PMIX_RANK=1' },
}

describe('rank and size', function()
  local file = os.tmpname()

  setup(function()
    local out = assert(io.open(file, 'w'))
    out:write [[
      local number = tonumber((...))
      local rank, size = require('neap.train.launch').rank_and_size()
      print(rank, size)
      io.stdout:flush()
      local ffi = require 'ffi'
      ffi.cdef 'int raise(int number);'
      if number then ffi.C.raise(number) end]]
    out:close()
  end)
  teardown(function() os.remove(file) end)

  for _, case in ipairs(CASES) do
    local environment, rank, size = unpack(case, 1, 3)
    it('under ' .. (environment == '' and 'no launcher' or environment), function()
      local status, out, err = program.shell(("%s %s '%s' lua '%s'"):format(NONE, environment,
        program.path, file))
      assert.are.equal(0, status, err)
      assert.are.equal(('%s\t%s\n'):format(rank, size), out)
      if os.getenv 'NEAP_SANITIZED' and os.getenv 'NEAP_SANITIZED' ~= '' then return end
      err = select(3, program.shell(("ulimit -c 0; %s %s '%s' lua '%s' 8; true"):format(NONE,
        environment, program.path, file))) -- 8: SIGFPE
      assert.matches(rank and 'rank ' .. rank .. ' crashed' or 'the program crashed', err)
    end)
  end

  it('are no matter of commands that one process does', function()
    local replay = ("'%s' replay --no-store --trace experiments/traces/e8k2.safetensors "
      .. '--policy static 2>&1'):format(program.path)
    local once = select(2, program.mpirun(3, replay:match "' (.-) 2>&1"))
    assert.are.equal(1, select(2, once:gsub('\nstatic ', '')), once)
    for _, environment in ipairs { 'SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4', 'PMI_RANK=3 PMI_SIZE=4',
      'PMIX_RANK=5 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8' } do
      local status, out = program.shell(NONE .. environment .. ' ' .. replay)
      assert.are.equal(0, status, out)
      assert.matches('\nstatic ', out)
      status, out = program.shell(NONE .. environment .. (" '%s' replay 2>&1"):format(program.path))
      assert.are.equal(2, status)
      assert.matches("missing option '%-%-trace'", out)
    end
    local status, out = program.shell(NONE .. 'SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4 '
      .. ("'%s' try laer --trace experiments/traces/e8k2.safetensors 2>&1"):format(program.path))
    assert.are.equal(0, status, out)
    assert.matches('trainings, one digest', out)
  end)

  it('are what MPI connects, or it is an error', function()
    local status, _, err = program.shell(NONE .. 'SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 '
      .. "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 '" .. program.path
      .. "' run experiments/quickstart.lua --steps=1 --slots=8 --trace=")
    assert.are_not.equal(0, status)
    assert.matches('srun started 2 tasks, MPI sees 1: use %-%-mpi=pmix', err)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- Where ranks are: threads of this process, or the processes that mpirun has started.

local comm = require 'neap.engine.comm'
local device = require 'neap.engine.device'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

local launch = {}

local TIMEOUT = 600

--- Rank and number of processes under mpirun or srun; nil without.
function launch.rank_and_size()
  return launcher.process_rank, launcher.process_size
end

--- Calls a file with (rank, ranks, world or nil, text) on every rank: so many threads, or as this
-- process under mpirun. Returns the exit status.
function launch.run(ranks, file, text)
  local rank, size = launch.rank_and_size()
  if not rank then return launcher.run_ranks(ranks, file, { text }) end
  return assert(loadfile(file))(rank, size, nil, text)
end

--- Before ranks are started: an operation that takes longer than seconds (nil: the engine's 10
-- minutes; 0: no limit) ends the run. The flight recorder is written to the folder that NEAP_FLIGHT
-- names, TMPDIR or /tmp; NEAP_FLIGHT= turns it off.
function launch.watch(seconds)
  local folder = os.getenv 'NEAP_FLIGHT' or os.getenv 'TMPDIR' or '/tmp'
  lib.C.neap_watch(seconds or TIMEOUT, errors.HUNG, folder)
end

--- A rank's communicator with all others; the rank computes on 'cpu' or 'cuda' from now on. world:
-- a neap_world pointer, or nil under mpirun. Collective.
function launch.open(world, rank, name)
  if world then device.use(name, rank) end
  local all = comm['open_' .. comm.transport_of(not world, name)](world, rank)
  if not world and all:size() ~= launcher.process_size then
    local by = launcher.process_launcher
    errors.usage('%s started %d tasks, MPI sees %d: use %s', by, launcher.process_size, all:size(),
      by == 'srun' and '--mpi=pmix' or 'the mpirun of the MPI that Neap was built with')
  end
  return all
end

--- Ends a rank that has failed and said so: a process at once, a thread by taking its world down,
-- after which its file returns.
function launch.abandon(world, rank, status)
  if not world then launcher.leave(status) end
  lib.C.neap_world_abort(world, ('rank %d failed'):format(rank))
end

return launch

--- One rank of a bench, as launcher.run_ranks calls a file: the communicator, errors, exit status.
--
--   return require('neap.bench_rank')(function(channel, rank, ranks, order) … end, ...)

local comm = require 'neap.comm'
local failure = require 'neap.failure'
local json = require 'neap.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.lib'

--- run(channel, rank, ranks, order): order is what the JSON text stands for.
return function(run, rank, ranks, world, text)
  world = lib.ffi.cast('neap_world *', world)
  local channel = comm.open_local(world, rank)
  local ok, err = xpcall(run, failure.handler, channel, rank, ranks, json.decode(text))
  if not ok then
    if launcher.first_failure() then failure.tell(err, ('rank %d: '):format(rank)) end
    lib.C.neap_world_abort(world, ('rank %d failed'):format(rank))
  end
  channel:close()
  return ok and 0 or failure.status(err)
end

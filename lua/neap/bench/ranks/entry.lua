--- One rank of a bench, as processes.run calls a file: the communicator, errors, exit status.
--
--   return require('neap.bench.ranks.entry')(function(channel, rank, ranks, order) … end, ...)

local failure = require 'neap.base.errors'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local processes = require 'neap.train.launch'

--- run(channel, rank, ranks, order): order is what the JSON text stands for; order.device is where
-- the rank computes.
return function(run, rank, ranks, world, text)
  world = world and lib.ffi.cast('neap_world *', world)
  local order, channel = json.decode(text), nil
  local ok, err = xpcall(function()
    channel = processes.open(world, rank, order.device)
    run(channel, rank, ranks, order)
  end, failure.handler)
  local status = ok and 0 or failure.status(err)
  if not ok then
    if launcher.first_failure() then failure.tell(err, ('rank %d: '):format(rank)) end
    if not world then launcher.leave(status) end
    lib.C.neap_world_abort(world, ('rank %d failed'):format(rank))
  end
  if channel then channel:close() end
  return status
end

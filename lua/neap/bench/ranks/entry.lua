-- SPDX-License-Identifier: Apache-2.0

--- One rank of a bench, as launch.run calls a file: the communicator, errors, exit status.
--
--   return require('neap.bench.ranks.entry')(function(channel, rank, ranks, order) … end, ...)

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local launch = require 'neap.train.launch'

--- run(channel, rank, ranks, order): order is what the JSON text stands for; order.device is where
-- the rank computes.
return function(run, rank, ranks, world, text)
  world = world and lib.ffi.cast('neap_world *', world)
  local order, channel = json.decode(text), nil
  local ok, err = xpcall(function()
    channel = launch.open(world, rank, order.device)
    run(channel, rank, ranks, order)
  end, errors.handler)
  local status = ok and 0 or errors.status(err)
  if not ok then
    if launcher.first_failure() then errors.tell(err, ('rank %d: '):format(rank)) end
    launch.abandon(world, rank, status)
  end
  if channel then channel:close() end
  return status
end

-- SPDX-License-Identifier: Apache-2.0

--- One rank of a check's trainings (train/check.lua): a thread, or a process under mpirun. Called
-- as a file with (rank, ranks, world or nil, ORDER); ORDER is JSON: device, cases, and path, to
-- which rank 0's thread, or every process, writes a line of JSON for each case that it has trained.
-- A rank that fails writes its error to path.RANK, or under mpirun tells it and ends the job.

local errors = require 'neap.base.errors'
local fingerprint = require 'neap.train.fingerprint'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local launch = require 'neap.train.launch'

local function train_all(rank, world, order)
  local comm = launch.open(world, rank, order.device)
  local out = (rank == 0 or not world) and assert(io.open(order.path, 'w'))
  for _, case in ipairs(order.cases) do
    local result = fingerprint.take(comm, case, out ~= nil)
    if out then
      out:write(json.encode(result), '\n')
      out:flush()
    end
  end
  if out then out:close() end
  comm:close()
end

local function note(path, err)
  local file = assert(io.open(path, 'w'))
  file:write(type(err) == 'table' and err.code or 'BUG', ' ', errors.text(err))
  file:close()
end

local function main(rank, _, world, text)
  local order = json.decode(text)
  world = world and lib.ffi.cast('neap_world *', world)
  local ok, err = xpcall(train_all, errors.handler, rank, world, order)
  if ok then return 0 end
  local status = errors.status(err)
  if world then note(('%s.%d'):format(order.path, rank), err)
  else errors.tell(err, ('rank %d: '):format(rank)) end
  launch.abandon(world, rank, status)
  return status
end

return main(...)

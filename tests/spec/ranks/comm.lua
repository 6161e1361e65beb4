-- SPDX-License-Identifier: Apache-2.0

--- One rank of comm_spec.lua; run with (rank, ranks, world) on threads and (…, nil) under mpirun.

local comm = require 'neap.engine.comm'
local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'

local ffi = lib.ffi
local rank, ranks, world = ...

local function equal(expected, got, what)
  if expected ~= got then
    error(('rank %d of %d: %s is %s, not %s'):format(rank, ranks, what, tostring(got),
      tostring(expected)), 2)
  end
end

local function fails(code, pattern, f)
  local ok, err = pcall(f)
  equal(false, ok, 'success of ' .. pattern)
  equal(code, err.code, 'code of ' .. pattern)
  if not err.message:find(pattern) then error(err.message .. ' lacks ' .. pattern, 2) end
  if not err.where:find 'ranks/comm.lua' then error('at ' .. err.where .. ', not here', 2) end
end

local group = world and comm.open_local(ffi.cast('neap_world *', world), rank) or comm.open_mpi()
rank, ranks = group:rank(), group:size()

local function reductions()
  local t = tensor.of('f32', { rank, -rank, 1 })
  group:all_reduce(t)
  equal(ranks * (ranks - 1) / 2, t.pointer[0], 'sum')
  equal(ranks, t.pointer[2], 'sum of ones')
  local array = ffi.new('int64_t[2]', rank, rank)
  group:all_reduce(array, 2, 'i64', 'max')
  equal(ranks - 1, tonumber(array[1]), 'maximum')
  local counts, send = {}, tensor.new('f64', 2 * ranks):fill(rank + 1)
  for r = 1, ranks do counts[r] = 2 end
  local recv = tensor.zeros('f64', 2)
  group:reduce_scatter(send, recv, counts)
  equal(ranks * (ranks + 1) / 2, recv.pointer[1], 'reduced part')
end

local function moves()
  local t = tensor.of('i32', { rank, rank })
  group:broadcast(t, nil, ranks - 1)
  equal(ranks - 1, t.pointer[1], 'broadcast')
  local counts, total = {}, 0
  for r = 1, ranks do counts[r], total = r, total + r end
  local mine, all = tensor.new('f32', rank + 1):fill(rank), tensor.new('f32', total)
  group:all_gather(mine, all, counts)
  equal(ranks - 1, all.pointer[total - 1], 'gathered')
  local ones = ffi.new('int64_t[?]', ranks)
  for r = 0, ranks - 1 do ones[r] = 1 end
  local send, recv = ffi.new('uint8_t[?]', ranks, rank), ffi.new('uint8_t[?]', ranks)
  for r = 0, ranks - 1 do send[r] = 10 * rank + r end
  group:all_to_all(send, ones, recv, ones, 'u8')
  for r = 0, ranks - 1 do equal(10 * r + rank, recv[r], 'all_to_all') end
end

local function groups()
  local pair = group:split(math.floor(rank / 2))
  local other = group:duplicate()
  local a, b = tensor.of('f64', { 1 }), tensor.of('f64', { 1 })
  other:all_reduce(b)
  pair:all_reduce(a)
  equal(pair:size(), a.pointer[0], 'pair')
  equal(ranks, b.pointer[0], 'all')
  pair:close()
  other:close()
  fails('ARGUMENT', 'closed', function() pair:rank() end)
end

local function arguments()
  local t = tensor.new('f32', 4)
  fails('ARGUMENT', "type 'f23' is unknown %(did you mean 'f32'%?%)",
    function() group:all_reduce(t, 4, 'f23') end)
  fails('ARGUMENT', "reduction 'mix' is unknown", function() group:all_reduce(t, 4, nil, 'mix') end)
  fails('ARGUMENT', 'list of 9 counts', function()
    group:all_gather(t, t, { 1, 1, 1, 1, 1, 1, 1, 1, 1 })
  end)
  fails('ARGUMENT', 'root', function() group:broadcast(t, nil, ranks) end)
  fails('ARGUMENT', 'count is %-1', function() group:all_reduce(t, -1) end)
  fails('ARGUMENT', 'a count is needed', function()
    group:broadcast(ffi.new 'char[3]', nil, 0)
  end)
  group:barrier()
end

reductions()
moves()
groups()
arguments()
equal(comm.transport_of(not world, 'cpu'), group:transport(), 'transport')
group:close()
return 0

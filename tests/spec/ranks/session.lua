-- SPDX-License-Identifier: Apache-2.0

--- One rank of session_spec.lua, run with (rank, ranks, world, POLICY, FILE) on threads,
-- (POLICY, FILE) under mpirun. Every rank writes what it saw to FILE.rank: layouts and splits. With
-- one more argument, rank 1 changes a layout behind the session's back, and the error is written.

local arguments = { ... }
local lib = require 'neap.base.lib'
local comm = require 'neap.engine.comm'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local EXPERTS, LAYERS, STEPS = 8, 3, 6

local function open_group()
  if #arguments == 2 then return comm.open_mpi(), arguments[1], arguments[2] end
  local rank, _, world, policy, path, tamper = unpack(arguments)
  return comm.open_local(lib.ffi.cast('neap_world *', world), rank), policy, path, tamper
end

local function load_of(ranks, step, layer)
  local load = lib.ffi.new('int64_t[?]', ranks * EXPERTS)
  for i = 0, ranks * EXPERTS - 1 do
    load[i] = 100 * lib.C.neap_random_uniform(3, step * LAYERS + layer, i) * (i % EXPERTS + 1)
  end
  return load
end

local group, policy, path, tamper = open_group()
local ranks = group:size()
local out = assert(io.open(path .. '.' .. group:rank(), 'w'))
local s = session.open {
  comm = group, layers = LAYERS, policy = policy, seed = 3, wait = true, deadline = 0.3,
  topology = topology.open { ranks = ranks, node_size = 2, slots = 3, experts = EXPERTS },
}

local function run_step(step)
  s:advance(step)
  for layer = 0, LAYERS - 1 do
    local load = load_of(ranks, step, layer)
    s:plan_now(step, layer, load)
    local row = s:split(step, layer, load):row(ranks - 1)
    out:write(s:layout(layer):hash(), ' ', tostring(row[0]), ' ', tostring(row[5]), '\n')
    if not tamper or layer > 0 then s:record(step, layer, load) end
  end
end

if tamper then
  run_step(0)
  if group:rank() == 1 then
    s:layout(0):set { { 0, 1, 2 }, { 3, 4, 5 }, { 6, 7, 0 }, { 1, 2, 3 } }
  end
  local _, err = pcall(run_step, 1)
  out:write(err.code, ' ', err.message)
else
  for step = 0, STEPS - 1 do run_step(step) end
end
s:close()
group:close()
out:close()

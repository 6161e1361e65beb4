-- SPDX-License-Identifier: Apache-2.0

--- One rank of a training of the small dense model: called by launcher.run_ranks with (rank, ranks,
-- world, 'exact' or 'plain', FILE). Every number of ranks trains on the same global batches; rank 0
-- writes losses, gradient norms and final parameters to FILE as hexadecimal floats.

local rank, ranks, world, mode, path = ...

local lib = require 'neap.base.lib'
local comm = require 'neap.engine.comm'
local nn = require 'neap.nn'
local optim = require 'neap.nn.optimizer'
local tensor = require 'neap.engine.tensor'
local small_model = dofile(lib.home .. '/tests/small_model.lua')

local SEQUENCE, SEQUENCES, STEPS, VOCABULARY = 6, 12, 4, 11

--- This rank's ids of a step, or targets, which are the ids one further on.
local function rows(step, shift)
  local count = SEQUENCES / ranks * SEQUENCE
  local ids = tensor.new('i32', count)
  for i = 0, count - 1 do
    ids:data()[i] = tonumber(lib.C.neap_random_bits(9, step, rank * count + i + shift) % VOCABULARY)
  end
  return ids
end

local group = comm.open_local(lib.ffi.cast('neap_world *', world), rank)
local parameters = nn.Parameters.new { dtype = 'f32', seed = 3, exact = mode == 'exact',
  comm = group }
parameters.total = SEQUENCES * SEQUENCE
local model = small_model(parameters, SEQUENCE)
parameters:allocate()
local optimizer = optim.AdamW.new(parameters, { comm = group, rate = 0.01, warmup = 2,
  steps = STEPS, clip = 0.5 })
local lines = {}
for step = 1, STEPS do
  local loss = model.forward(rows(step, 0), rows(step, 1))
  parameters:zero_grad()
  model.backward()
  lines[step] = ('%a %a'):format(loss, optimizer:step())
end
for i = 0, parameters.values.count - 1 do
  lines[#lines + 1] = ('%a'):format(parameters.values:data()[i])
end
if rank == 0 then
  local file = assert(io.open(path, 'w'))
  file:write(table.concat(lines, '\n'), '\n')
  file:close()
end
group:close()

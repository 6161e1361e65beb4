-- SPDX-License-Identifier: Apache-2.0

--- neap bench unshard: what restoring experts from shards, and reducing their gradients, costs on
-- ranks that are threads or, under mpirun, processes, beside a plain copy of memory in the same
-- run.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local launch = require 'neap.train.launch'

local bench = {
  doc = "Unshard and reduce of one layer's experts, beside a copy of memory.", cuda = true,
}

bench.options = {
  ranks = { default = 8, min = 1, integer = true,
    doc = 'ranks; on a GPU they share it, and under mpirun there are as many as it starts' },
  experts = { default = 8, min = 1, integer = true, doc = 'experts' },
  slots = { default = 2, min = 1, integer = true, doc = 'expert slots per rank' },
  hidden = { default = 256, min = 1, integer = true, doc = 'width of the model' },
  ffn = { default = 512, min = 1, integer = true, doc = 'hidden size of an expert' },
  dtype = { default = 'f32', on_cuda = 'bf16', choices = { 'f32', 'bf16' },
    doc = "of the parameters that travel; beside bf16, too, gradients are f32" },
  unshard = { default = 'dtype', choices = { 'dtype', 'fp8' },
    doc = 'how parameters travel: as they are, or in FP8' },
  repeats = { default = 10, min = 1, integer = true, doc = 'measured transfers of each kind' },
}

--- args: the options by name. Prints a table, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local values = {}
  for name in pairs(bench.options) do values[name] = args.params[name] end
  local order = json.encode { params = values, device = args.device, json = args.json }
  return launch.run(values.ranks, launcher.home .. '/lua/neap/bench/ranks/unshard.lua', order)
end

return bench

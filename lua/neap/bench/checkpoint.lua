-- SPDX-License-Identifier: Apache-2.0

--- neap bench checkpoint: what a checkpoint costs a training: rounds of steps without one and with
-- one, in turn, on ranks that are threads or, under mpirun, processes.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local launch = require 'neap.train.launch'
local params = require 'neap.base.params'
local trainer = require 'neap.train.trainer'

local bench = { doc = 'What a checkpoint costs the steps of a training.', cuda = true }

bench.options = params.extend(trainer.params, {
  ranks = { default = 4, min = 1, integer = true, doc = 'ranks; under mpirun its -n' },
  steps = { default = 100, min = 1, integer = true, doc = 'steps of a round, with one checkpoint' },
  rounds = { default = 3, min = 1, integer = true, doc = 'rounds of each kind' },
  policy = { default = 'minimax', doc = 'layout policy' },
  folder = { default = 'bench-checkpoint', doc = 'where to write; emptied at the end' },
})

--- args: the options by name. Prints a line, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local values = {}
  for name in pairs(bench.options) do values[name] = args.params[name] end
  local order = json.encode { params = values, device = args.device, json = args.json }
  return launch.run(values.ranks, launcher.home .. '/lua/neap/bench/ranks/checkpoint.lua', order)
end

return bench

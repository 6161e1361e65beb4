-- SPDX-License-Identifier: Apache-2.0

--- neap calibrate: measures the machine at hand, as ranks that are threads or processes of mpirun,
-- and writes a cluster description that --cluster takes.

local launcher = require 'neap.launcher'
local run = require 'neap.cli.run'
local arguments = require 'neap.base.arguments'

local command = {
  doc = 'Measure this machine as a cluster description, for --cluster.', has_ranks = true,
}

command.examples = [[
Examples:
  neap calibrate -n 4 -o here.lua
  neap simulate --cluster here.lua --model moe-1.2b --layers 2 --policy laer]]

local function whole(name) return arguments.whole(name, 1, 4096) end

function command.options(parser)
  parser:option('-n --ranks', 'ranks to measure with'):convert(whole '-n'):default '4'
  parser:option('--node-size', 'ranks per node (default: all)'):convert(whole '--node-size')
  arguments.output(parser, 'file to write (default: stdout)')
  parser:option('--device', 'where ranks compute'):choices({ 'cpu', 'cuda' }):default 'cpu'
  parser:option('--steps', 'training steps to measure'):convert(whole '--steps'):default '12'
end

--- Calls the recipe that measures, as neap run does. Returns its exit status.
function command.run(args)
  return run.run { recipe = launcher.home .. '/lua/neap/calibrate/recipe.lua',
    ranks = args.ranks, node_size = args.node_size, device = args.device, no_store = true,
    params = { output = args.output or '', steps = tostring(args.steps) } }
end

return command

-- SPDX-License-Identifier: Apache-2.0

--- neap report: one HTML file that tells what runs and replays have shown.

local arguments = require 'neap.base.arguments'
local outputs = require 'neap.base.outputs'
local replay = require 'neap.cli.replay'
local report = require 'neap.report'

local command = { doc = 'Write one HTML file about runs and replays.' }

command.examples = [[
Examples:
  neap report                              the last run of the run store
  neap report --run 3 --run 4              runs of the store, as neap runs lists them
  neap report --sweep policies             all runs of a sweep
  neap report --by hidden                  all runs, apart by a parameter
  neap report --trace t.safetensors --policy laer --policy mine.lua
                                           replays a trace, for this report only
  neap report --timeline step.json         with a step that neap run --timeline has recorded
  neap report results.json                 what neap run --json has printed
Runs whose trace is still there get pictures of loads and layouts by replaying it.]]

local function number_of_run(text)
  local id = tonumber(text)
  if id and id % 1 == 0 and id > 0 then return id end
  return nil, ("--run is '%s'; it must be a number, as neap runs lists them"):format(text)
end

function command.options(parser)
  parser:argument('results', 'what neap run --json and neap replay --json have printed')
    :args '*':argname '<results.json>'
  replay.trace_options(parser)
  parser:option('--run', 'run of the run store; may be given again'):count '*'
    :argname('<number>'):convert(number_of_run)
  arguments.sweep(parser, 'runs of this sweep')
  parser:option('--tag', 'runs with this tag'):argname '<tag>'
  parser:option('--by', 'tell runs apart by this parameter, too (hidden, ranks, …)')
    :argname '<parameter>'
  parser:option('--store', 'the run store (default: NEAP_STORE, else runs.db)'):argname '<file>'
  arguments.output(parser, 'file to write'):default 'report.html'
  parser:option('--timeline', 'what neap run or neap simulate --timeline has written')
    :argname '<file.json>'
  parser:option('--title', 'heading of the page'):argname '<text>'
end

function command.run(args)
  outputs.check('--output', args.output)
  outputs.write(args.output, report.render(report.collect(args), args.title))
  if args.output ~= '-' then print(args.output) end
end

return command

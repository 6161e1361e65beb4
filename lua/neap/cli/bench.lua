-- SPDX-License-Identifier: Apache-2.0

--- neap bench NAME: measures; each bench is a module of lua/neap/bench.
-- A bench is { doc=, options=, cuda=, run=function(args) }: options is a table of parameters as
-- base/params.lua describes, whose values run gets as args.params, or a function(command) over
-- argparse; cuda says that it knows --device=cuda.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local params = require 'neap.base.params'

local bench = { doc = 'Measure one part of the engine.', has_ranks = true }

bench.examples = [[
Examples:
  neap bench moe
  neap bench plan --json
  neap bench policy --help            its own options]]

--- Names of the benches, sorted.
local function names()
  local list = {}
  for _, file in ipairs(launcher.list(launcher.home .. '/lua/neap/bench')) do
    list[#list + 1] = file:match '^(.*)%.lua$'
  end
  table.sort(list)
  return list
end

local function add_options(command, module)
  if type(module.options) == 'function' then
    module.options(command)
  elseif module.options then
    params.check(module.options, 'bench')
    params.add(command, module.options, 'Parameters')
  end
end

function bench.options(command, arguments)
  local known = names()
  command:argument('name', 'one of: ' .. table.concat(known, ', ')):argname '<name>'
  command:flag('--json', 'results as JSON')
  command:option('--device', 'where to compute'):choices({ 'cpu', 'cuda' }):default 'cpu'
  local name = arguments[2]
  if not name or name:sub(1, 1) == '-' then return arguments end
  for _, candidate in ipairs(known) do
    if candidate == name then
      bench.chosen = require('neap.bench.' .. name)
      command:description(bench.chosen.doc)
      add_options(command, bench.chosen)
      local specs = type(bench.chosen.options) == 'table' and bench.chosen.options or {}
      for i, word in ipairs(arguments) do
        if word == '-n' and specs.ranks then arguments[i] = '--ranks' end
      end
      return params.normalize(arguments, specs)
    end
  end
  errors.usage("unknown bench '%s'%s; there are: %s", name, lib.hint(name, known),
    table.concat(known, ', '))
end

function bench.run(args)
  if args.device == 'cuda' and not bench.chosen.cuda then
    errors.usage('bench %s measures the CPU only', args.name)
  end
  if type(bench.chosen.options) == 'table' then
    args.params = params.values(bench.chosen.options, args.params or {}, args.device)
  end
  return bench.chosen.run(args)
end

return bench

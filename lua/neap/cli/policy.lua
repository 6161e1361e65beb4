-- SPDX-License-Identifier: Apache-2.0

--- neap policy: which policies there are.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local params = require 'neap.base.params'
local policies = require 'neap.policy'
local text_table = require 'neap.base.text_table'

local command = { doc = 'List the policies that --policy knows by name.' }

command.examples = [[
Examples:
  neap policy list
  neap policy list --json]]

function command.options(parser)
  parser:require_command(true):command_target 'action'
  parser:command('list', 'Name, split, parameters and what each policy does.')
    :flag('--json', 'results as JSON')
end

local function describe(name)
  local class = policies.load(policies.resolve(name).file)
  local values = setmetatable({}, { __jsontype = 'object' })
  for key, spec in pairs(class.params) do values[key] = params.show(spec.default) end
  return {
    policy = name, doc = class.doc or '', params = values,
    split = type(class.split) == 'string' and class.split or 'its own',
  }
end

--- Parameters as --policy takes them: 'no_even=false,window=5'.
local function as_typed(values)
  local list = {}
  for i, key in ipairs(lib.sorted_keys(values)) do list[i] = key .. '=' .. values[key] end
  return table.concat(list, ',')
end

--- Prints the list, or JSON.
function command.run(args)
  local list, rows = {}, {}
  for i, name in ipairs(policies.names()) do
    list[i] = describe(name)
    rows[i] = { name, list[i].split, list[i].doc, as_typed(list[i].params) }
  end
  if args.json then
    print(json.results('policy', { rows = list }, { 'policy', 'split', 'doc', 'params' }))
  else
    print(text_table.format({ 'policy', 'split', 'what it does', 'parameters' }, rows))
  end
end

return command

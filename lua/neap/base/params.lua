-- SPDX-License-Identifier: Apache-2.0

--- Parameters as tables of default and doc, the way recipes and benches declare them:
--   params = { steps = { default = 100, min = 1, integer = true, doc = 'optimizer steps' },
--              text  = { default = 'english', choices = { 'english', 'go' }, doc = '…' },
--              exact = { default = false, doc = '…' },
--              sizes = { default = { 64, 128 }, doc = 'a list: --sizes=64,128' } }
-- A parameter has the type of its default: number, string, boolean, or list of the type of its
-- first element. on_cuda: the default with --device=cuda, where it is another; output: it names a
-- file that is written, which is looked at before the run begins; elsewhere: texts that other
-- options take, and what is said of them. Whole numbers without a max are below 2^31. On the
-- command line: --steps=50 or --steps 50; --exact, --no-exact.

local items_of = require('neap.base.arguments').items
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local params = {}

local FIELDS = {
  choices = true, output = true, default = true, doc = true, integer = true, max = true, min = true,
  on_cuda = true, elsewhere = true,
}
local TYPES = { number = true, string = true, boolean = true, table = true }

--- Raises a plain error, at the definition's place, if a declaration makes no sense.
-- : table, string, integer?
function params.check(specs, owner, level)
  level = (level or 1) + 1
  for _, name in ipairs(lib.sorted_keys(specs)) do
    local spec = specs[name]
    local where = ("%s: parameter '%s'"):format(owner, name)
    if not name:match '^%a[%w_]*$' then
      error(where .. ': a name is letters, digits and _', level)
    end
    if type(spec) ~= 'table' or not TYPES[type(spec.default)] then
      error(where .. ': needs a table with a default (number, string, boolean or list)', level)
    end
    if spec.on_cuda ~= nil and type(spec.on_cuda) ~= type(spec.default) then
      error(where .. ': on_cuda and default are of different types', level)
    end
    for _, field in ipairs(lib.sorted_keys(spec)) do
      if not FIELDS[field] then
        error(("%s: unknown field '%s'%s"):format(where, field,
          lib.hint(field, lib.sorted_keys(FIELDS))), level)
      end
    end
  end
end

--- A copy of declarations with more of them, or others of the same name.
-- : table, table -> table
function params.extend(specs, more)
  local all = {}
  for name, spec in pairs(specs) do all[name] = spec end
  for name, spec in pairs(more) do all[name] = spec end
  return all
end

local function option_name(name)
  return '--' .. name:gsub('_', '-')
end

--- A value as it would be typed to be just that.
-- : any -> string
function params.show(value)
  if type(value) == 'number' then return json.pack(value) end
  if type(value) ~= 'table' then return tostring(value) end
  local items = {}
  for i, item in ipairs(value) do items[i] = params.show(item) end
  return table.concat(items, ',')
end

-- Of whole numbers without another limit: what the engine counts with.
local MOST = 2 ^ 31 - 1

local function check_range(name, spec, value, text)
  if spec.integer and math.abs(value) > MOST and not spec.max then
    errors.usage('%s is %s; it can be %.0f at most', option_name(name), text, MOST)
  end
  if spec.integer and value % 1 ~= 0 then
    errors.usage('%s is %s; it must be a whole number', option_name(name), text)
  end
  local least, most = spec.min or -math.huge, spec.max or math.huge
  if value < least or value > most then
    errors.usage('%s is %s; allowed: %s', option_name(name), text,
      most == math.huge and ('at least %s'):format(least)
      or least == -math.huge and ('at most %s'):format(most) or ('%s to %s'):format(least, most))
  end
  return value
end

local convert = {}

function convert.number(name, spec, text)
  local value = tonumber(text)
  if not value or value ~= value then
    local other = (spec.elsewhere or {})[text]
    errors.usage("%s is '%s'; it must be a number%s", option_name(name), text,
      other and ('; %s'):format(other) or '')
  end
  return check_range(name, spec, value, text)
end

function convert.string(name, spec, text)
  for _, choice in ipairs(spec.choices or {}) do
    if text == choice then return text end
  end
  if spec.choices then
    errors.usage("%s is '%s'; allowed: %s%s", option_name(name), text,
      table.concat(spec.choices, ', '), lib.hint(text, spec.choices))
  end
  return text
end

function convert.boolean(name, _, text)
  if text ~= 'true' and text ~= 'false' then
    errors.usage("%s is '%s'; it must be true or false", option_name(name), text)
  end
  return text == 'true'
end

function convert.table(name, spec, text)
  local item_type = type(spec.default[1] or '')
  local list = {}
  for _, item in ipairs(items_of(text)) do
    list[#list + 1] = convert[item_type](name, spec, item)
  end
  if #list == 0 and #spec.default > 0 then
    errors.usage('%s is empty; it must have one value or more, as in %s=%s', option_name(name),
      option_name(name), params.show(spec.default))
  end
  return list
end

local Values = {
  __index = function(_, name)
    error(("unknown parameter '%s'"):format(tostring(name)), 2)
  end,
}

local function default_of(spec, device)
  if device == 'cuda' and spec.on_cuda ~= nil then return spec.on_cuda end
  return spec.default
end

--- Typed values: texts[name] where it is given, else the default on device ('cpu'). Reading a name
-- that is not declared is an error.
-- : table, table, string? -> table
function params.values(specs, texts, device)
  for _, name in ipairs(lib.sorted_keys(texts)) do
    if not specs[name] then
      errors.usage("unknown parameter '%s'%s", name, lib.hint(name, lib.sorted_keys(specs)))
    end
  end
  local values = {}
  for _, name in ipairs(lib.sorted_keys(specs)) do
    local spec, text = specs[name], texts[name]
    values[name] = default_of(spec, device)
    if text ~= nil then
      values[name] = convert[type(spec.default)](name, spec, text)
    end
  end
  return setmetatable(values, Values)
end

local function description(spec)
  local text = spec.doc or ''
  if spec.choices then
    text = ('%s: %s'):format(text, table.concat(spec.choices, ', '))
  end
  local cuda = spec.on_cuda ~= nil and '; on cuda: ' .. params.show(spec.on_cuda) or ''
  return ('%s (default: %s%s)'):format(text, params.show(spec.default), cuda)
end

--- Action of an option that keeps its text, or a fixed one, in args.params; of a list that is given
-- again, all of its values.
local function store(name, fixed, is_list)
  return function(result, _, given)
    result.params = result.params or {}
    local before = is_list and result.params[name]
    result.params[name] = fixed or (before and before .. ',' or '') .. given
  end
end

--- Adds an option for every parameter to an argparse command, as a group of its help; their texts
-- arrive in args.params.
-- : Command, table, string
function params.add(command, specs, title)
  local group = {}
  for _, name in ipairs(lib.sorted_keys(specs)) do
    local spec, option = specs[name]
    local kind = type(spec.default) == 'table' and 'list' or type(spec.default)
    if kind == 'boolean' then
      option = command:flag(option_name(name)):action(store(name, 'true'))
      command:flag('--no-' .. option_name(name):sub(3)):action(store(name, 'false')):hidden(true)
    else
      option = command:option(option_name(name)):action(store(name, nil, kind == 'list'))
        :argname(('<%s>'):format(kind))
      if kind == 'list' then option:count '*':init(nil) end
    end
    group[#group + 1] = option:description(description(spec))
  end
  if #group > 0 then command:group(title, unpack(group)) end
end

-- Parameters that are called by either name.
local OTHER_NAME = { policy = 'policies', policies = 'policy' }

--- Arguments with --flag=true and --flag=false written as --flag and --no-flag, and --some_name as
-- --some-name, --policy as --policies where that is what there is, for the options of specs; others
-- as they are.
-- : list of string, table -> list of string
function params.normalize(arguments, specs)
  local out = {}
  for i, argument in ipairs(arguments) do
    local name, rest = argument:match '^%-%-([%w_-]+)(.*)$'
    local spec = name and specs[(name:gsub('-', '_'))]
    local other = not spec and OTHER_NAME[name]
    if other and specs[other] then
      name, spec = other, specs[other]
      argument = option_name(other) .. rest
    end
    if spec and name:find '_' then
      argument = option_name(name) .. rest
    end
    if spec and type(spec.default) == 'boolean' and rest == '=true' then
      argument = option_name(name)
    elseif spec and type(spec.default) == 'boolean' and rest == '=false' then
      argument = '--no-' .. option_name(name):sub(3)
    end
    out[i] = argument
  end
  return out
end

return params

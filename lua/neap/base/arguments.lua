-- SPDX-License-Identifier: Apache-2.0

--- Arguments of commands: numbers, and what argparse says about wrong usage, as Neap says it.
--
--   command:option('--slots'):convert(arguments.whole('--slots', 1))

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'

local arguments = {}

-- The largest whole number where an option says none: what the engine counts with.
local MOST = 2 ^ 31 - 1

--- Whole numbers from low to high, or of at least low (and below 2^31).
function arguments.whole(name, low, high)
  return function(text)
    local value = tonumber(text)
    if value and value % 1 == 0 and value >= low and value <= (high or MOST) then
      return value
    end
    local bounded = high or value and value > MOST and MOST
    local range = bounded and ('from %d to %.0f'):format(low, bounded)
      or ('of at least %d'):format(low)
    return nil, ("%s is '%s'; it must be a whole number %s"):format(name, text, range)
  end
end

--- A path, which cannot be empty.
function arguments.path(name)
  return function(text)
    if text ~= '' then return text end
    return nil, name .. ' is empty; it must be a path'
  end
end

--- Numbers above 0.
function arguments.positive(name)
  return function(text)
    local value = tonumber(text)
    if value and value > 0 and value < math.huge then return value end
    return nil, ("%s is '%s'; it must be a number above 0"):format(name, text)
  end
end

--- Numbers of 0 or more.
function arguments.not_negative(name)
  return function(text)
    local value = tonumber(text)
    if value and value >= 0 and value < math.huge then return value end
    return nil, ("%s is '%s'; it must be a number of at least 0"):format(name, text)
  end
end

--- Items of 'a,b,c'. A comma inside of a policy's parameters (laer:window=3,no_even=true) belongs
-- to them: what follows it is NAME=VALUE.
function arguments.items(text)
  local items, at = {}, 1
  while at <= #text do
    local item, after = text:match('^([^,]*),?()', at)
    while item:find(':', 1, true) and text:match('^[%a_][%w_]*=', after) do
      local more
      more, after = text:match('^([^,]*),?()', after)
      item = item .. ',' .. more
    end
    if item ~= '' then items[#items + 1] = item end
    at = after
  end
  return items
end

--- An option that may be given again, and each time with several values: 'a,b'. names: as argparse
-- takes them; the values arrive as one list.
function arguments.several(parser, names, description)
  return parser:option(names, description):count '*':convert(function(text)
    if #arguments.items(text) > 0 then return text end
    return nil, ('%s is empty; it must have one value or more'):format(names:match '%-%-%S+')
  end):action(function(result, target, text)
    for _, item in ipairs(arguments.items(text)) do table.insert(result[target], item) end
  end)
end

--- -o and --output, for a command that writes a file; arrives as args.output.
function arguments.output(parser, description)
  return parser:option('-o --output', description):hidden_name '--out':argname '<file>'
end

--- Policies to run, --policy or --policies, one or several: arrive as args.policy, a list.
function arguments.policies(parser, default)
  return arguments.several(parser, '--policy --policies', 'NAME or file, with +SPLIT and '
    .. (':parameter=value,…; one or several (default: %s)'):format(default)):argname '<policy>'
end

--- The name of a sweep, --sweep or --name; arrives as args.sweep.
function arguments.sweep(parser, description)
  return parser:option('--sweep --name', description):argname '<name>'
end

--- Options that a command does not have, though others do: told what it takes instead.
function arguments.elsewhere(parser, names, instead)
  parser:option(names):hidden(true):convert(function()
    return nil, ('%s: %s'):format(names:match '%-%-%S+', instead)
  end)
end

-- Names that options had in the version before.
local FORMER = { ['--out'] = '--output' }

--- Arguments with option names in one spelling (--node_size is --node-size); former names are
-- noted. own: whether a name is an option of the command itself; parameters of recipes are not.
function arguments.normalize(words, own)
  local out = {}
  for i, word in ipairs(words) do
    local name, rest = word:match '^(%-%-[%w_-]+)(.*)$'
    if name and name:find('_', 1, true) and own[name:gsub('_', '-')] then
      word = name:gsub('_', '-') .. rest
    end
    if FORMER[name] and own[name] and (rest == '' or rest:sub(1, 1) == '=') then
      errors.note(('%s is called %s now'):format(name, FORMER[name]))
    end
    out[i] = word
  end
  return out
end

--- Names of a command's options, and of its actions', as a set.
function arguments.names(parser, set)
  set = set or {}
  for _, option in ipairs(parser._options) do
    for _, alias in ipairs(option._aliases) do set[alias] = true end
  end
  for _, command in ipairs(parser._commands) do arguments.names(command, set) end
  return set
end

--- Makes it an error to give an option of a command, or of its actions, twice with a value: the
-- later one would be taken without a word. Options that may be given again stay as they are.
function arguments.once(parser)
  for _, option in ipairs(parser._options) do
    if option._maxcount == 1 and option._maxargs > 0 then option:overwrite(false) end
  end
  for _, command in ipairs(parser._commands) do arguments.once(command) end
end

--- argparse's message in Neap's form: with the hint in brackets, on one line.
function arguments.wrong(parser, text)
  local message = text:gsub('\n?Did you mean .*$', '')
    :gsub("^(option '.*') must be used at most 1 time$", '%1 is given twice')
  local kind, name = message:match "^unknown (%a+) '(.*)'$"
  local names = {}
  for _, element in ipairs(kind == 'command' and parser._commands or parser._options) do
    for _, alias in ipairs(element._aliases) do
      if #alias > 2 then names[#names + 1] = alias end
    end
  end
  return ('%s%s; %s --help tells more'):format(message, name and lib.hint(name, names) or '',
    parser:_get_fullname())
end

return arguments

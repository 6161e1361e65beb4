--- Arguments of commands: numbers, and what argparse says about wrong usage, as Neap says it.
--
--   command:option('--slots'):convert(arguments.whole('--slots', 1))

local lib = require 'neap.base.lib'

local arguments = {}

--- Whole numbers from low to high, or of at least low (and below 2^31).
function arguments.whole(name, low, high)
  return function(text)
    local value = tonumber(text)
    if value and value % 1 == 0 and value >= low and value <= (high or 2 ^ 31 - 1) then
      return value
    end
    local range = high and ('from %d to %d'):format(low, high) or ('of at least %d'):format(low)
    return nil, ("%s is '%s'; it must be a whole number %s"):format(name, text, range)
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

--- argparse's message in Neap's form: with the hint in brackets, on one line.
function arguments.wrong(parser, text)
  local message = text:gsub('\n?Did you mean .*$', '')
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

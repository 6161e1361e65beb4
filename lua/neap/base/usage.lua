--- What argparse says about wrong usage, as Neap says it.

local lib = require 'neap.base.lib'

--- argparse's message in Neap's form: with the hint in brackets, on one line.
local function usage_message(parser, text)
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

return usage_message

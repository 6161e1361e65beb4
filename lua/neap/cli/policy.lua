--- neap policy: which policies there are.

local launcher = require 'neap.launcher'
local json = require 'neap.json'
local text_table = require 'neap.table'

local command = { doc = 'List the policies that --policy knows by name.' }

function command.options(parser)
  parser:require_command(true):command_target 'action'
  parser:command('list', 'Names, and what each policy does.'):flag('--json', 'results as JSON')
end

--- First line of a Lua file's opening comment.
local function first_comment(path)
  for line in io.lines(path) do
    local comment = line:match '^%-%-%-?%s*(.*)$'
    if comment then return (comment:gsub('%.$', '')) end
  end
  return ''
end

local function policies()
  local list = {}
  local folder = launcher.home .. '/experiments/policies'
  local pipe = io.popen(("LC_ALL=C ls '%s' 2>/dev/null"):format(folder))
  for file in pipe:lines() do
    local name = file:match '^(.*)%.lua$'
    if name then
      list[#list + 1] = { policy = name, doc = first_comment(folder .. '/' .. file) }
    end
  end
  pipe:close()
  return list
end

function command.run(args)
  local list = policies()
  if args.json then
    print(json.encode(list, { 'policy', 'doc' }))
    return
  end
  local rows = {}
  for i, item in ipairs(list) do rows[i] = { item.policy, item.doc } end
  print(text_table.format({ 'policy', 'what it does' }, rows))
end

return command

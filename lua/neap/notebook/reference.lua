-- SPDX-License-Identifier: Apache-2.0

--- What the Lua reference says of a value: the comments of the sources, and the methods of what
-- hooks and recipes are handed, which a notebook has no value of (ctx, load, job).
--
--   reference.of(neap.replay.score)      -- 'replay.score(options)\n\nReplays a trace under …'
--   reference.method('ctx', 'replicas')
--   reference.members 'ctx'              -- { 'cost', 'current', 'history', … }

local launcher = require 'neap.launcher'

local reference = {}

-- By the name that examples give them: file, class, and members that are of a class, too.
local HANDED = {
  ctx = { file = 'policy/context.lua', class = 'Context',
    members = { history = 'history', random = 'random', topology = 'topology',
      previous = 'layout' } },
  history = { file = 'policy/history.lua', class = 'History' },
  load = { file = 'policy/history.lua', class = 'Load' },
  random = { file = 'policy/context.lua', class = 'Random' },
  layout = { file = 'policy/layout_builder.lua', class = 'LayoutBuilder' },
  split = { file = 'policy/split_builder.lua', class = 'SplitBuilder' },
  topology = { file = 'engine/topology.lua', class = 'Topology' },
  job = { file = 'main/rank.lua', class = 'Job' },
}

local files = {} -- lines by path

local function lines_of(path)
  if files[path] then return files[path] end
  local file, lines = io.open(path), {}
  if not file then return lines end
  for line in file:lines() do lines[#lines + 1] = line end
  file:close()
  files[path] = lines
  return lines
end

local function path_of(entry)
  return launcher.home .. '/lua/neap/' .. entry.file
end

--- The comment whose last line is given, as text; '' without one.
local function comment_up_to(lines, last)
  local text, first = {}, last
  while lines[first] and lines[first]:match '^%s*%-%-' do first = first - 1 end
  for i = first + 1, last do text[#text + 1] = (lines[i]:gsub('^%s*%-%-%-? ?', '')) end
  return table.concat(text, '\n')
end

--- A function's heading, with types if its comment ends with them, and the comment.
local function entry_at(lines, at)
  local heading = lines[at]:match 'function%s+(.*%))' or lines[at]:gsub('^%s+', '')
  local text, types = ('\n' .. comment_up_to(lines, at - 1)):match '^\n(.-)\n?: ([^\n]*)$'
  if types then heading = ('%s : %s'):format(heading, types) end
  text = text or comment_up_to(lines, at - 1)
  return text == '' and heading or heading .. '\n\n' .. text
end

--- The comment at the head of a file.
local function head_of(lines)
  local last = 0
  if (lines[1] or ''):find('SPDX', 1, true) then last = 2 end
  while lines[last + 1] and lines[last + 1]:match '^%-%-' do last = last + 1 end
  return last > 0 and comment_up_to(lines, last) or nil
end

--- Text about a function or a module; nil if there is none.
function reference.of(value)
  if type(value) == 'function' then
    local about = debug.getinfo(value, 'S')
    local path = about.what == 'Lua' and about.source:match '^@(.*)$'
    local lines = path and lines_of(path)
    return lines and lines[about.linedefined] and entry_at(lines, about.linedefined) or nil
  end
  for name, module in pairs(package.loaded) do
    if module == value and name:match '^neap' then
      local path = package.searchpath(name, package.path)
      return path and head_of(lines_of(path)) or nil
    end
  end
end

--- The entry of HANDED that a path of names leads to ('ctx.history'), or nil.
local function handed(path)
  local entry
  for part in path:gmatch '[^%.:]+' do
    if not entry then
      entry = HANDED[part]
    else
      entry = entry.members and HANDED[entry.members[part]]
    end
    if not entry then return nil end
  end
  return entry
end

--- Names of the members of what a path of names is handed as, sorted; nil if it is nothing known.
function reference.members(path)
  local entry = handed(path)
  if not entry then return nil end
  local names, seen = {}, {}
  local function add(name)
    if not seen[name] and not name:match '^_' then names[#names + 1] = name end
    seen[name] = true
  end
  local root = path:match '[^%.:]+$'
  for _, line in ipairs(lines_of(path_of(entry))) do
    local method = line:match('^function ' .. entry.class .. '[.:]([%w_]+)%(')
    local field = line:match('^%-%-   ' .. root .. '[.:]([%w_]+)')
    if method or field then add(method or field) end
  end
  table.sort(names)
  return names
end

--- Text about a member of it, or nil.
function reference.method(path, name)
  local entry = handed(path)
  local lines = entry and lines_of(path_of(entry)) or {}
  for i, line in ipairs(lines) do
    if line:match('^function ' .. (entry.class .. '[.:]' .. name) .. '%(') then
      return entry_at(lines, i)
    end
  end
  local root = path:match '[^%.:]+$'
  for _, line in ipairs(lines) do
    local text = line:match('^%-%-   (' .. root .. '[.:]' .. name .. '%f[^%w_].*)$')
    if text then return text end
  end
end

return reference

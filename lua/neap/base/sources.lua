-- SPDX-License-Identifier: Apache-2.0

--- What a Lua file of the user's is made of: the file, and the modules of the user's that it
-- requires, and theirs. Found by reading, nothing is run: a name that is computed is not seen.
--
--   sources.reach 'mine/policy.lua'     -- it may require what lies beside it
--   sources.text 'mine/policy.lua'      -- all of it in one text, whose hash stands for it

local launcher = require 'neap.launcher'

local sources = {}

-- Most bytes of what has no size, a pipe or a device: it may have no end.
local MOST = 2 ^ 24

local PIECE = 2 ^ 16 -- what files of /proc can be asked for

--- All of a file; of what has no size, at most MOST bytes.
local function read_all(file)
  local pieces, bytes = {}, 0
  while bytes < MOST do
    local piece, why = file:read(PIECE)
    if why then return nil end
    if not piece then return table.concat(pieces) end
    pieces[#pieces + 1], bytes = piece, bytes + #piece
  end
  local size = file:seek 'end'
  if size and size > bytes then
    file:seek('set', bytes)
    pieces[#pieces + 1] = file:read '*a'
  end
  return table.concat(pieces)
end

--- Text of a file, or nil.
function sources.read(path)
  local file = io.open(path, 'rb')
  if not file then return nil end
  local body = read_all(file)
  file:close()
  return body
end

--- package.path with the modules beside a file, before all others but Neap's own: a policy that is
-- called neap.lua must not keep others from Neap.
local function path_of(file)
  local pattern = (file:match '^(.*)/[^/]*$' or '.') .. '/?.lua;'
  local own = ('%s/lua/?.lua;%s/lua/?/init.lua;'):format(launcher.home, launcher.home)
  local _, last = package.path:find(own, 1, true)
  local first, rest = package.path:sub(1, last or 0), package.path:sub((last or 0) + 1)
  return first .. (rest:sub(1, #pattern) == pattern and '' or pattern) .. rest
end

--- From now on this state's require finds the modules beside a file.
function sources.reach(path)
  package.path = path_of(path)
end

--- Whether a file is Neap's own or the system's: an engine's version stands for the former.
local function is_known(path)
  local own = launcher.home .. '/lua/'
  return path:sub(1, #own) == own or path:sub(1, 5) == '/usr/'
end

--- The user's file that a name stands for, and its text; nil if it is none of theirs.
local function find(name, search)
  for pattern in search:gmatch '[^;]+' do
    local path = pattern:gsub('%?', (name:gsub('%.', '/'):gsub('%%', '%%%%')))
    local body = sources.read(path)
    if body then
      if is_known(path) then return nil end
      return path, body
    end
  end
end

local CALLS = {
  { 'require', function(name, search) return find(name, search) end },
  { 'dofile', function(name) return name, sources.read(name) end },
  { 'loadfile', function(name) return name, sources.read(name) end },
}

--- Calls visit(name, path, body) for each file that a text names, in the order of the text.
local function each_named(body, search, visit)
  local found = {}
  for _, call in ipairs(CALLS) do
    for at, quote, name in body:gmatch('()%f[%w_]' .. call[1] .. '%s*%(?%s*(["\'])([^"\'\n]-)%2') do
      found[#found + 1] = { at = at, quote = quote, name = name, look = call[2] }
    end
  end
  table.sort(found, function(a, b) return a.at < b.at end)
  for _, entry in ipairs(found) do
    local path, text = entry.look(entry.name, search)
    if text then visit(entry.name, path, text) end
  end
end

--- A file's text, and after it those of the modules that it needs, each under its name; nil where
-- it cannot be read. What is no text is left as it is.
function sources.text(path)
  local body = sources.read(path)
  if not body or body:find('\0', 1, true) then return body end
  local parts, seen, search = { body }, { [path] = true }, path_of(path)
  local function add(name, file, text)
    if seen[file] then return end
    seen[file] = true
    parts[#parts + 1] = ('\n-- %s:\n%s'):format(name, text)
    each_named(text, search, add)
  end
  each_named(body, search, add)
  return table.concat(parts)
end

return sources

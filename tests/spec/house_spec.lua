-- SPDX-License-Identifier: Apache-2.0

-- The folders of lua/neap: each uses itself and those before it, and no two files need each other.
local launcher = require 'neap.launcher'

local ORDER = { 'base', 'engine', 'draw', 'policy', 'nn', 'profile', 'runs', 'simulate', 'notebook',
  'train', 'replay', 'calibrate', 'report', 'sweep', 'ui', 'cli', 'bench', 'main' }

local level = { [''] = #ORDER } -- '' is lua/neap itself: init.lua, for users
for i, folder in ipairs(ORDER) do level[folder] = i end

--- All Lua files of lua/neap: text by module, 'policy.session' (init.lua is its folder).
local function read_house()
  local root, files = launcher.home .. '/lua/neap/', {}
  local list = io.popen(("find '%s' -name '*.lua'"):format(root))
  for path in list:lines() do
    local name = path:sub(#root + 1):gsub('%.lua$', ''):gsub('/', '.'):gsub('%.?init$', '')
    local file = assert(io.open(path))
    files[name] = file:read '*a'
    file:close()
  end
  list:close()
  return files
end

--- What is wrong with files: a sorted list.
local function faults(files)
  local found, uses, state = {}, {}, {}
  for name, text in pairs(files) do
    local folder = name:match '^[^.]*'
    uses[name] = {}
    for line in text:gmatch '[^\n]+' do
      local code = not line:match '^%s*%-%-' and line or ''
      for other in code:gmatch [=[['"[]neap%.([%w_.]+)['"%]]]=] do
        if files[other] and other ~= name then uses[name][other] = true end
      end
      if code:match [=[require *%(?['"[]+neap['"%]]]=] then uses[name][''] = true end
    end
    if not level[folder] then found[#found + 1] = folder .. ' is no folder of the list' end
    for other in pairs(uses[name]) do
      if (level[other:match '^[^.]*'] or 0) > (level[folder] or 0) then
        found[#found + 1] = ('%s uses %s'):format(name, other)
      end
    end
  end
  local function visit(name)
    state[name] = 'open'
    for other in pairs(uses[name]) do
      if state[other] == 'open' then found[#found + 1] = ('%s closes a circle'):format(other) end
      if not state[other] then visit(other) end
    end
    state[name] = 'done'
  end
  for name in pairs(files) do
    if not state[name] then visit(name) end
  end
  table.sort(found)
  return found
end

describe('lua/neap', function()
  it('has folders that use those before them, and no circles', function()
    local files = read_house()
    assert.is_string(files['policy.session'])
    assert.is_string(files['main.rank'])
    assert.are.same({}, faults(files))
  end)

  it('would be found out', function()
    assert.are.same({ 'engine.comm uses policy.session' }, faults {
      ['engine.comm'] = "local s = require 'neap.policy.session'", ['policy.session'] = '' })
    assert.are.same({ 'engine.comm uses policy.session' }, faults {
      ['engine.comm'] = 'return require "neap.policy.session"', ['policy.session'] = '' })
    assert.are.same({ 'engine.comm uses policy.session' }, faults {
      ['engine.comm'] = 'return require [[neap.policy.session]]', ['policy.session'] = '' })
    assert.are.same({ 'base.lib uses ' }, faults { ['base.lib'] = "require('neap')", [''] = '' })
    assert.matches('closes a circle', faults { ['nn.a'] = "return require('neap.nn.b')",
      ['nn.b'] = "local a = require 'neap.nn.a'" }[1])
    assert.are.same({ 'attic is no folder of the list' }, faults { ['attic.lib'] = '' })
  end)
end)

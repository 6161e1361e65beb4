-- SPDX-License-Identifier: Apache-2.0

local program = require 'tests.cli.program'
local sources = require 'neap.base.sources'

describe('neap completion', function()
  for _, shell in ipairs { 'bash', 'zsh', 'fish' } do
    it('knows commands and options for ' .. shell, function()
      local status, out, err = program.run('completion ' .. shell)
      assert.are.equal(0, status, err)
      for _, word in ipairs { 'replay', 'report', 'window', 'retry%-failed', 'kernel' } do
        assert.matches(word, out)
      end
    end)
  end

  it('completes in bash', function()
    local _, out, err = program.shell(("bash -c 'source <(\"%s\" completion bash); "
      .. "COMP_WORDS=(neap replay --pol); COMP_CWORD=2; _neap; echo ${COMPREPLY[@]}'"):format(
      program.path))
    assert.are.equal('--policy --policies\n', out, err)
  end)
end)

--- Names of all modules under lua/, as require takes them.
local function modules()
  local _, out = program.shell(("cd '%s/lua' && find . -name '*.lua'"):format(program.home))
  local names = {}
  for path in out:gmatch '%./([^\n]+)%.lua' do
    names[#names + 1] = path:gsub('/', '.'):gsub('%.init$', '')
  end
  return names
end

-- Modules that users do not require, but are handed objects of.
local HANDED = { 'neap', 'neap.policy.context', 'neap.policy.history', 'neap.policy.layout_builder',
  'neap.policy.split_builder', 'neap.main.rank' }

local function user_modules()
  local list = { unpack(HANDED) }
  for name in sources.read(program.home .. '/lua/neap/init.lua'):gmatch "= '(neap[%w_.]*)'" do
    list[#list + 1] = name
  end
  return list
end

--- Entries of "a, { b, c }": commas in braces and brackets do not divide.
local function count_types(text)
  local plain = text:gsub('%b{}', ''):gsub('%b[]', '')
  if not plain:find '%S' then return 0 end
  return select(2, plain:gsub(',', '')) + 1
end

--- Functions of a module that are documented, but for operators: name, number of parameters, and
-- of parameters that the last line of the comment has types of.
local function functions_of(name)
  local path = ('%s/lua/%s'):format(program.home, name:gsub('%.', '/'))
  local text, list, last = sources.read(path .. '.lua') or sources.read(path .. '/init.lua'), {}, ''
  for line in text:gmatch '[^\n]*' do
    local called, arguments = line:match '^function ([%w_.:]+)%((.*)%)'
    if called and last:match '^%-%-' and not called:match '__' then
      local types = last:match '^%-%- : (.*)$' or ''
      list[#list + 1] = { name = called, types = count_types((types:gsub('%->.*', ''))),
        parameters = arguments == '' and 0 or select(2, arguments:gsub(',', '')) + 1 }
    end
    if line ~= '' then last = line end
  end
  return list
end

describe('the Lua reference', function()
  local folder, said
  local function page(name)
    local file = assert(io.open(('%s/%s.html'):format(folder, name)), name)
    local text = file:read '*a'
    file:close()
    return text
  end

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    local status, out, err = program.shell(("cd '%s' && ldoc -d '%s' ."):format(program.home,
      folder))
    assert.are.equal(0, status, out .. err)
    said = err:gsub('[^\n]*contains no items\n', '') -- no comment but the module's own
  end)
  teardown(function() os.execute(("rm -r '%s'"):format(folder)) end)

  it('is generated from comments without a warning', function()
    assert.are.equal('', said)
  end)

  it('has a page for every module', function()
    local names, index = modules(), page 'index'
    assert.is_true(#names > 100)
    for _, name in ipairs(names) do
      assert.is_truthy(index:find(('modules/%s.html'):format(name), 1, true), name)
      page('modules/' .. name)
    end
  end)

  it('tells users\' modules from those inside Neap', function()
    local listed, offered = {}, {}
    for name in sources.read(program.home .. '/config.ld'):match 'FOR_USERS = %[%[(.-)%]%]'
      :gmatch '%S+' do listed[#listed + 1] = name end
    for name in sources.read(program.home .. '/lua/neap/init.lua'):gmatch "= '(neap[%w_.]*)'" do
      offered[#offered + 1] = name
    end
    for _, name in ipairs(HANDED) do offered[#offered + 1] = name end
    table.sort(listed)
    table.sort(offered)
    assert.are.same(offered, listed)
    local index = page 'index':match '<table.*'
    local users, own = index:match '^(.-)<h2>Inside Neap</h2>(.*)$'
    for _, name in ipairs(listed) do
      assert.is_truthy(users:find(('>%s<'):format(name), 1, true), name)
    end
    assert.is_truthy(own:find('>neap.base.errors<', 1, true))
    local _, count = index:gsub('modules/neap[%w_.]*%.html', '')
    assert.are.equal(#modules(), count)
  end)

  it('gives types and results of users\' functions', function()
    local lacking, count = {}, 0
    for _, name in ipairs(user_modules()) do
      for _, entry in ipairs(functions_of(name)) do
        count = count + 1
        if entry.types ~= entry.parameters then
          lacking[#lacking + 1] = ('%s: %s has %d parameters and types of %d'):format(name,
            entry.name, entry.parameters, entry.types)
        end
      end
    end
    assert.are.same({}, lacking)
    assert.is_true(count > 250)
    assert.is_truthy(page 'modules/neap.policy.history':find(
      'Load:at(rank: integer, expert: integer) &rarr; number', 1, true))
    assert.is_truthy(page 'modules/neap.policy.split_builder':find(
      '&rarr; list of { integer, integer }', 1, true))
    assert.is_falsy(page 'modules/neap.policy.history':find ' : integer')
  end)

  it('shows functions as they are called', function()
    for name, word in pairs { ['engine.layout'] = 'Layout:changed', replay = 'replay.score',
      ['nn.transformer'] = 'Transformer', ['policy.history'] = 'History:sum',
      ['runs.statistics'] = 'statistics.paired' } do
      assert.is_truthy(page('modules/neap.' .. name):find(word, 1, true), name .. ' ' .. word)
    end
  end)
end)

--- Every command of README.md runs: as it stands, with smaller sizes appended.

local program = require 'tests.cli.program'

-- What is appended to a command that contains the text, so that it ends in seconds.
local SMALLER = {
  ['run experiments/quickstart.lua'] =
    '--steps=7 --batch=8 --sequence=16 --layers=1 --hidden=32 --ffn=32',
  ['bench policy'] = '--repeats=100',
  ['bench moe'] = '--tokens=64 --hidden=32 --ffn=32 --experts=4 --repeats=1',
}

-- Commands that are not run here, and why.
local LEFT_OUT = {
  ['./neap test'] = 'it is what runs this spec',
}

--- Commands of a text: lines of fenced or indented code that call ./neap, continued lines joined,
-- and what stands between single backticks; in their order.
local function commands_of(text)
  local list, fenced = {}, false
  for line in text:gsub('\\\n%s*', ' '):gmatch '[^\n]+' do
    if line:match '^```' then
      fenced = not fenced
    elseif fenced or line:match '^    ' then
      list[#list + 1] = line:gsub('%s+#.*$', ''):match '^%s*%$?%s*(.*%./neap%s.*)$'
    else
      for command in line:gmatch '`(%./neap%s[^`]*)`' do list[#list + 1] = command end
    end
  end
  return list
end

local function read(path)
  local file = assert(io.open(path))
  local text = file:read '*a'
  file:close()
  return text
end

--- The command as this build runs it: its program for ./neap, busted for ./neap test SPEC.
local function adapt(command)
  for text, options in pairs(SMALLER) do
    if command:find(text, 1, true) then command = command .. ' ' .. options end
  end
  command = command:gsub('%./neap test ', './neap lua tests/busted.lua ')
  return (command:gsub('%./neap', ("'%s'"):format(program.path))
    :gsub('mpirun', 'mpirun --oversubscribe'))
end

describe('README.md:', function()
  local folder

  -- Commands run in order in a folder that looks like the repository, and write there.
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert.are.equal(0, (program.shell(("mkdir '%s' && ln -s '%s'/* '%s'"):format(folder,
      program.home, folder))))
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  local commands = commands_of(read(program.home .. '/README.md'))

  it('has commands', function() assert.is_true(#commands > 1) end)

  for _, command in ipairs(commands) do
    if not LEFT_OUT[command] then
      it(command, function()
        local status, out, err = program.shell(("cd '%s' && export OMPI_ALLOW_RUN_AS_ROOT=1 "
          .. 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 && %s </dev/null'):format(folder, adapt(command)))
        assert.are.equal(0, status, adapt(command) .. '\n' .. out .. err)
      end)
    end
  end
end)

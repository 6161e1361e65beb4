-- SPDX-License-Identifier: Apache-2.0

--- What --help shows can be typed: every example is one that the command takes.

local program = require 'tests.cli.program'

--- Commands that the help of the program lists.
local function commands()
  local names, text = {}, select(2, program.run '--help')
  for line in text:match 'Commands:\n(.-)\n\n':gmatch '[^\n]+' do
    names[#names + 1] = line:match '^   (%a+)'
  end
  return names
end

--- Examples of a command's help, without mpirun, redirections and remarks.
local function examples(name)
  local list = {}
  for line in select(2, program.run(name .. ' --help')):gmatch '[^\n]+' do
    local example = line:gsub('^  mpirun %-n %d+ ', '  '):match '^  neap (.+)$'
    if example then list[#list + 1] = example:gsub('   .*$', ''):gsub(' >.*$', '') end
  end
  return list
end

local names = commands()

describe('neap --help', function()
  it('lists commands', function() assert.is_true(#names >= 15, #names) end)
end)

describe('defaults', function()
  for _, name in ipairs { 'replay', 'simulate', 'sweep', 'suite', 'trace synth', 'trace plot' } do
    it('of ' .. name .. ' are told once', function()
      local status, out = program.run(name .. ' --help')
      assert.are.equal(0, status)
      assert.is_nil(out:match '%(default: [^)\n]*%) %(default:[^\n]*')
    end)
  end
end)

for _, name in ipairs(names) do
  describe('neap ' .. name .. ' --help', function()
    local list = examples(name)
    it('has examples', function() assert.is_true(#list > 0) end)
    for _, example in ipairs(list) do
      it(example, function()
        local status, out, err = program.run(example:gsub(' %-%-help', '') .. ' --help')
        assert.are.equal(0, status, out .. err)
        for path in example:gmatch 'experiments/[%w_/.]+' do
          assert.is_truthy(io.open(program.home .. '/' .. path), path .. ' is not there')
        end
      end)
    end
  end)
end

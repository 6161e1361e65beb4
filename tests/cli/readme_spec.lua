-- SPDX-License-Identifier: Apache-2.0

--- Every command and Lua block of README.md runs: as it stands, with smaller sizes appended.

local document = require 'tests.cli.document'
local program = require 'tests.cli.program'

describe('README.md:', function()
  it('has commands', function()
    assert.is_true(#document.tasks(program.home .. '/README.md') > 1)
  end)
  it('links to files that there are', function()
    local file = assert(io.open(program.home .. '/README.md'))
    local count = 0
    for path in file:read('*a'):gmatch '%]%(([%w_./-]+)%)' do
      assert.is_truthy(io.open(program.home .. '/' .. path), path)
      count = count + 1
    end
    file:close()
    assert.is_true(count > 10)
  end)
  document.tests('README.md', it, setup, teardown, pending)
end)

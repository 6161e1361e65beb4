--- Every command and Lua block of README.md runs: as it stands, with smaller sizes appended.

local document = require 'tests.cli.document'
local program = require 'tests.cli.program'

describe('README.md:', function()
  it('has commands', function()
    assert.is_true(#document.tasks(program.home .. '/README.md') > 1)
  end)
  document.tests('README.md', it, setup, teardown)
end)

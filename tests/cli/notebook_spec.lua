-- SPDX-License-Identifier: Apache-2.0

--- The notebooks run from the first cell to the last, in a copy of their folder; what they show is
-- stored in them.

local lib = require 'neap.base.lib'
local program = require 'tests.cli.program'

-- The sanitizers' builds would take minutes, to see the same.
if not lib.version:find 'Release' then return end

describe('notebooks:', function()
  local folder = os.tmpname()

  setup(function()
    local status, _, err = program.shell(("rm '%s' && mkdir '%s' && cd '%s' && cp -r "
      .. "'%s'/notebooks . && ln -s '%s'/experiments . && JUPYTER_DATA_DIR=jupyter '%s' kernel "
      .. 'install'):format(folder, folder, folder, program.home, program.home, program.path))
    assert.are.equal(0, status, err)
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  for _, name in ipairs { 'write_a_policy', 'analyse_a_sweep' } do
    it(name, function()
      local status, out, err = program.shell(("cd '%s' && JUPYTER_DATA_DIR='%s/jupyter' "
        .. "NEAP_PROGRAM='%s' timeout 120 /usr/bin/python3 '%s/tests/execute_notebook.py' "
        .. "notebooks/%s.ipynb"):format(folder, folder, program.path, program.home, name))
      assert.are.equal(0, status, out .. err)
    end)
  end
end)

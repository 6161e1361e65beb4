-- SPDX-License-Identifier: Apache-2.0

--- The Python package: its tests, and its example, on Debian's Python and on the one in the path.

local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

local HOME = launcher.home

--- Pythons that there are, by version: Debian's, for which its packages are, and the path's.
local function pythons()
  local found, seen = {}, {}
  for _, path in ipairs { '/usr/bin/python3', 'python3' } do
    local status, version = program.shell(path .. [[ -c 'import sys; print(sys.version.split()[0],
      sys.prefix)']])
    if status == 0 and not seen[version] then
      seen[version] = true
      found[#found + 1] = { path = path, version = version:match '%S+',
        numpy = program.shell(path .. " -c 'import numpy'") == 0 }
    end
  end
  return found
end

-- A sanitized library wants its runtime in the program that loads it, and Python lacks it.
local plain = program.shell(("! ldd '%s' | grep -q 'lib[at]san'"):format(launcher.library)) == 0

for _, python in ipairs(pythons()) do
  local command = ("NEAP_LIBRARY='%s/libneap.so' PYTHONPATH='%s/python' PYTHONDONTWRITEBYTECODE=1 "
    .. 'OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 %s '):format(launcher.folder, HOME, python.path)

  describe('Python ' .. python.version .. ':', function()
    if not python.numpy then pending(python.path .. ': skipped: no numpy') return end
    if not plain then pending('skipped: a sanitized library') return end
    local names = launcher.list(HOME .. '/tests/python')
    table.sort(names)
    for _, name in ipairs(names) do
      if name:match '^test_.*%.py$' then
        it(name, function()
          local status, out, err = program.shell(("%s'%s/tests/python/%s'"):format(command, HOME,
            name))
          assert.are.equal(0, status, out .. err)
          assert.matches('\nOK', err)
          for reason in err:gmatch "skipped '([^']+)'" do print(name .. ': skipped: ' .. reason) end
        end)
      end
    end

    it('the example runs, and policies rank as they should', function()
      local status, out, err = program.shell(("%s'%s/experiments/python/neap_plan.py'"):format(
        command, HOME))
      assert.are.equal(0, status, err)
      local score = {}
      for name, value in out:gmatch '(%S+) +imbalance ([%d.]+)' do score[name] = tonumber(value) end
      assert.is_true(score['static+lite'] > score['laer+lite'])
      assert.is_true(score['laer+lite'] > score['laer+minimax'])
      assert.is_true(score['laer+minimax'] >= score['neap+minimax'])
    end)

    it('planners give what they give in Lua', function()
      local status, out, err = program.shell(command .. [[ -c '
import numpy as np, neap
load = np.arange(4 * 6).reshape(4, 6) * 7 % 23
layout = neap.Planner(neap.Topology(4, 6, 2, node_size=2), "laer").plan(load)
print(",".join(map(str, layout.experts)))
']])
      assert.are.equal(0, status, err)
      local topologies = require 'neap.engine.topology'
      local t = topologies.open { ranks = 4, node_size = 2, experts = 6, slots = 2 }
      local load = {}
      for rank = 0, 3 do
        load[rank + 1] = {}
        for e = 0, 5 do load[rank + 1][e + 1] = (rank * 6 + e) * 7 % 23 end
      end
      local layout = require('neap.engine.plan').open('laer', t):plan(load)
      local experts = {}
      for slot = 0, 7 do experts[slot + 1] = layout:array()[slot] end
      assert.are.equal(table.concat(experts, ',') .. '\n', out)
    end)
  end)
end

-- It compiles nothing where the build is up to date, but packs the whole tree.
local long = os.getenv 'NEAP_LONG' and it or pending

describe('the wheel of pip install .', function()
  long('has all that the package needs', function()
    local folder = os.tmpname()
    local status, out, err = program.shell((
      [[rm '%s' && mkdir '%s' && cd '%s/python' && export PYTHONDONTWRITEBYTECODE=1 &&
      /usr/bin/python3 -c 'import neap_build; neap_build.build_wheel("%s")' >&2 && cd '%s' &&
      /usr/bin/python3 -m zipfile -e neap-*.whl site && chmod +x site/neap/_tree/bin/neap &&
      PYTHONPATH=site /usr/bin/python3 -m neap policy list]]):format(folder, folder, HOME, folder,
      folder))
    assert.are.equal(0, status, out .. err)
    assert.matches('\nlaer +lite', out)
    program.shell(("rm -r '%s'"):format(folder))
  end)
end)

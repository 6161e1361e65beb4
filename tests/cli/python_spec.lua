--- The Python example: planners and splits on NumPy arrays.

local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

-- Debian's Python, for which its packages are.
local PYTHON = '/usr/bin/python3'

describe('experiments/python/neap_plan.py', function()
  local environment = ("PYTHONDONTWRITEBYTECODE=1 NEAP_LIBRARY='%s/libneap.so' PYTHONPATH='%s"
    .. "/experiments/python' OPENBLAS_NUM_THREADS=1 %s"):format(launcher.folder, launcher.home,
    PYTHON)
  local has_numpy = program.shell(PYTHON .. " -c 'import numpy'") == 0
  -- A sanitized library wants its runtime in the program that loads it, and Python lacks it.
  local plain = program.shell(("! ldd '%s/libneap.so' | grep -q 'lib[at]san'"):format(
    launcher.folder)) == 0
  local check = has_numpy and plain and it or pending

  check('runs its example, and policies rank as they should', function()
    local status, out, err = program.shell(("%s '%s/experiments/python/neap_plan.py'"):format(
      environment, launcher.home))
    assert.are.equal(0, status, err)
    local score = {}
    for name, value in out:gmatch '(%S+) +imbalance ([%d.]+)' do score[name] = tonumber(value) end
    assert.is_true(score['static+lite'] > score['laer+lite'])
    assert.is_true(score['laer+lite'] > score['laer+minimax'])
    assert.is_true(score['laer+minimax'] >= score['neap+minimax'])
  end)

  check('gives what Lua gives, and says what is wrong', function()
    local status, out, err = program.shell(environment .. [[ -c '
import numpy as np, neap_plan as n
load = np.arange(4 * 6).reshape(4, 6) * 7 % 23
p = n.Planner(4, 6, 2, node_size=2, plan="laer")
print(",".join(map(str, p.plan(load).flatten())))
layout = p.plan(load)
amount = p.split(layout, load)
assert (p.rank_split(layout, load, 3) == amount[3]).all()
for e in range(6):
    assert (amount[:, layout == e].sum(axis=1) == load[:, e]).all()
for bad in (lambda: n.Planner(4, 99, 2), lambda: p.split(layout * 0, load),
            lambda: n.Planner(4, 6, 2, plan="lear"), lambda: p.plan(load[:2])):
    try:
        bad()
        print("nothing raised")
    except (n.NeapError, ValueError) as error:
        assert len(str(error)) > 10
assert "laer" in n.plans() and "minimax" in n.splits()
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

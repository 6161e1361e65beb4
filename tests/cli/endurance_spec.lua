-- SPDX-License-Identifier: Apache-2.0

--- tests/endurance.sh's training, in a short form: that it measures, and fails above a mark. What
-- 10,000 steps show is a part of ./neap test --long.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SHORT = 'run tests/cli/recipes/endures.lua --json --no-store -n 2 --steps=150 --every=10 '
  .. '--resident-mark=1e6 --device-mark=1e5 --heap-mark='

describe('a long training', function()
  it('has its memory and files measured, with a new layout at every step', function()
    local status, out, err = program.run(SHORT .. '1e5')
    assert.are.equal(0, status, err)
    local row = json.decode(out).rows[1]
    assert.are.equal(150, row.steps)
    assert.is_true(row.layouts_changed > 140)
    assert.is_true(row.resident > 2 ^ 20 and row.heap > 2 ^ 16 and row.open_files > 3)
    assert.are.equal(0, row.files_changed)
  end)

  it('that grows by more than its mark fails', function()
    local status, _, err = program.run(SHORT .. '-1e6')
    assert.are.equal(1, status)
    assert.matches('heap_slope is %-?%d+ bytes per step; the mark is %-1e%+06', err)
  end)
end)

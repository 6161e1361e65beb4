-- SPDX-License-Identifier: Apache-2.0

--- The oracle for everyone: whatever decides and however it travels, what is learned is the same.

local check = require 'neap.train.check'
local launcher = require 'neap.launcher'
local policy = require 'neap.policy'
local program = require 'tests.cli.program'

local SLOW = launcher.folder:find 'san' ~= nil -- a build that looks for errors of memory
local LONG = os.getenv 'NEAP_LONG'

local function file(name)
  return 'tests/policies/' .. name .. '.lua'
end

describe('training', function()
  it('is the same under all policies, splits, schedules, shard groups and ranks', function()
    local names = SLOW and { 'hot', 'late', 'neap' } or policy.names()
    local result = check.run { policies = names }
    assert.is_true(result.ok, check.text(result))
    assert.is_true(result.trainings >= (SLOW and 40 or 150), result.trainings)
  end)

  it('is so for policies that plan on the counts, by any schedule', function()
    local result = check.run { policies = { file 'both', file 'current' }, ranks = { 4, 8 },
      splits = { '' }, shard_groups = { 'all', 'resident' } }
    assert.is_true(result.ok, check.text(result))
  end)

  it('is so for processes', function()
    local status, out, err = program.mpirun(3, 'run experiments/quickstart.lua --check '
      .. '--policies=late,hot')
    assert.are.equal(0, status, out .. err)
    assert.matches('late, hot: %d+ trainings, one digest', out)
  end)

  for _, ranks in ipairs(LONG and not SLOW and { 1, 2, 3, 4, 8 } or {}) do
    it(('is the same in every combination, on %d ranks'):format(ranks), function()
      local result = check.run { policies = policy.names(), ranks = { ranks }, every = true }
      assert.is_true(result.ok, check.text(result))
      io.stderr:write(check.text(result), '\n')
    end)
  end
end)

describe('a check', function()
  --- Of one policy on two ranks.
  local function run(name, options)
    local given = { policies = { name }, ranks = { 2 }, schedules = { 'laer' },
      shard_groups = { 'all' }, splits = { '' } }
    for key, value in pairs(options or {}) do given[key] = value end
    return check.run(given)
  end

  it('says that the engine differs', function()
    local result = run('hot', { rank_file = 'tests/spec/ranks/check_damaged.lua' })
    assert.are.equal(result.trainings, result.differ)
    assert.are.equal('engine', result.difference.due_to)
    assert.are.same({ 'gradients', 0 }, { result.difference.what, result.difference.step })
    assert.are.equal(1, check.status(result))
    assert.matches('gradients differ at step 0, layer %d.*it is due to the engine',
      check.text(result))
  end)

  it('says that a policy\'s layouts make it differ, or its split', function()
    for _, what in ipairs { 'plan', 'split' } do
      local result = run(file 'damages' .. ':what=' .. what)
      assert.is_true(result.differ > 0 and result.differ < result.trainings)
      assert.are.equal(what == 'plan' and 'policy' or 'split', result.difference.due_to)
      assert.are.equal(1, check.status(result))
    end
  end)

  it('says that a policy is not deterministic, or its split', function()
    for _, what in ipairs { 'plan', 'split' } do
      local result = run(file 'unsure' .. ':what=' .. what, { ranks = { 3, 4 },
        splits = { 'even', '' } })
      assert.are.equal(0, result.differ, check.text(result))
      assert.are.equal(what == 'plan' and 'policy' or 'split', result.changing.what)
      assert.are.equal(3, check.status(result))
      assert.matches('is not deterministic: two runs differ at step %d, layer %d',
        check.text(result))
    end
  end)

  it('names a policy that fails, once, and is done soon', function()
    local result = run(file 'loops', { deadline = 0.2 })
    assert.are.equal('POLICY', result.failed.code)
    assert.matches('loops.lua:3: plan at step 1, layer 0 ran for more than 0.2 s',
      check.text(result))
    assert.are.equal(3, check.status(result))
  end)

  it('is for recipes that have a policy', function()
    local path = os.tmpname()
    local recipe = io.open(path, 'w')
    recipe:write "return require('neap').recipe.define { name = 'none', run = function() end }"
    recipe:close()
    local status, _, err = program.run('run ' .. path .. ' --check')
    os.remove(path)
    assert.are.equal(2, status)
    assert.matches("recipe none has no parameter 'policies' or 'policy'", err)
  end)
end)

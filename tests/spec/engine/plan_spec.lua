-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local plan = require 'neap.engine.plan'
local topology = require 'neap.engine.topology'

local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe('plan', function()
  local t = topology.open { ranks = 4, node_size = 2, slots = 2, experts = 4 }
  local LOAD = { { 9, 1, 1, 1 }, { 9, 1, 1, 1 }, { 9, 1, 1, 1 }, { 9, 1, 1, 1 } }

  it('knows the shipped planners and documents their parameters', function()
    local names = {}
    for line in io.lines(launcher.home .. '/core/plan/planner.h') do
      if not line:match '#define' then
        for name in line:gmatch '%f[%w]X%((%w+)%)' do names[#names + 1] = name end
      end
    end
    assert.are.same(names, plan.names())
    for _, name in ipairs(plan.names()) do
      for key, parameter in pairs(plan.parameters(name)) do
        assert.is_true(#parameter.doc > 10, name .. ' ' .. key)
        if parameter.min then assert.is_true(parameter.default >= parameter.min, key) end
      end
    end
    local some = plan.parameters('laer', 'no_even token_bytes')
    assert.are.same({ 'no_even', 'token_bytes', 'window' }, lib.sorted_keys(some))
    assert.are.equal(false, some.no_even.default)
    assert.are.equal(8192, some.token_bytes.default)
  end)

  it('plans on the loads of several steps', function()
    local past = { { 1, 9, 1, 1 }, { 1, 9, 1, 1 }, { 1, 9, 1, 1 }, { 1, 9, 1, 1 } }
    for _, name in ipairs(plan.names()) do
      local planner = plan.open(name, t)
      local newest, both = planner:plan(LOAD, nil, 3), planner:plan_history({ past, LOAD }, nil, 3)
      assert.are.equal(0, newest:changed(planner:plan_history({ LOAD }, nil, 3)), name)
      assert.are.equal(0, both:changed(planner:plan_history({ past, LOAD }, nil, 3)), name)
    end
    for name in ('static random eplb flexmoe laer llep moonep ultraep fastermoe lplb maxtext late')
      :gmatch '%w+' do -- as published, on one load: the newest
      local planner = plan.open(name, t)
      local newest = planner:plan(LOAD, nil, 3)
      assert.are.equal(0, newest:changed(planner:plan_history({ past, LOAD }, nil, 3)), name)
    end
    local neap = plan.open('neap', t)
    assert.matches('at least 1', message(neap.plan_history, neap, {}))
  end)

  it('plans many layers on several threads', function()
    local planners, tasks = { plan.open('neap', t), plan.open('neap', t) }, {}
    for i = 1, 5 do
      local load = {}
      for r = 1, 4 do load[r] = { 1 + i, 9 - i, i % 3, 2 } end
      tasks[i] = { loads = { LOAD, load }, seed = i }
    end
    for i, l in ipairs(plan.batch(planners, tasks)) do
      assert.are.equal(0, l:changed(planners[1]:plan_history(tasks[i].loads, nil, i)))
    end
    tasks[4].loads = {}
    assert.matches('plan 3 of 5: .*at least 1', message(plan.batch, planners, tasks))
    assert.matches('threads 0 and 1', message(plan.batch, { planners[1], planners[1] }, tasks))
  end)

  it('changes fewer slots where these have a price', function()
    local wide = topology.open { ranks = 8, node_size = 4, slots = 3, experts = 8 }
    local function load(hot)
      local rows = {}
      for r = 1, 8 do
        rows[r] = {}
        for e = 1, 8 do rows[r][e] = e == hot and 40 + r or 5 + (e * r) % 4 end
      end
      return rows
    end
    local before, changed = plan.open('neap', wide):plan(load(1)), {}
    for i, price in ipairs { 0, 0.3, 1000 } do
      changed[i] = before:changed(plan.open('neap', wide, { change_price = price })
        :plan(load(5), before))
    end
    assert.is_true(changed[1] > changed[2] and changed[2] > 0, table.concat(changed, ' '))
    assert.are.equal(0, changed[3])
  end)

  it('plans from lists and from C arrays alike, for every planner', function()
    local array = lib.ffi.new('double[16]')
    for i = 0, 15 do array[i] = LOAD[1][i % 4 + 1] end
    for _, name in ipairs(plan.names()) do
      local planner = plan.open(name, t)
      local a, b = planner:plan(LOAD, nil, 3), planner:plan(array, nil, 3)
      assert.are.equal(0, a:changed(b), name)
      for expert = 0, 3 do assert.is_true(#a:replicas(expert) >= 1) end
    end
  end)

  it('gives a hot expert more replicas', function()
    local l = plan.open('eplb', t, { doubles = false }):plan(LOAD)
    assert.are.equal(4, #l:replicas(0))
  end)

  it('plans static as published: device d holds i * E/C + d mod E/C', function()
    assert.are.same({ { 0, 2 }, { 1, 3 }, { 0, 2 }, { 1, 3 } },
      plan.open('static', t):plan(LOAD):experts())
  end)

  it('draws by seed alone', function()
    local planner = plan.open('random', t)
    local a = planner:plan(LOAD, nil, 1)
    local b = planner:plan(LOAD, a, 1)
    assert.are.equal(a:hash(), b:hash())
    local differ = false
    for seed = 2, 9 do differ = differ or planner:plan(LOAD, nil, seed):hash() ~= a:hash() end
    assert.is_true(differ)
  end)

  it('is a function of a context in policies', function()
    local asked
    local ctx = { plan = function(_, name, options)
      asked = { name, options }
      return 'draft'
    end }
    assert.are.equal('draft', plan.laer(ctx, { window = 3 }))
    assert.are.same({ 'laer', { window = 3 } }, asked)
    assert.matches("no planner is called 'lear' %(did you mean 'laer'%?%)",
      message(function() return plan.lear end))
  end)

  it('says what is wrong', function()
    assert.matches("plan_spec.lua:%d+: plan: no planner is called 'eplbb' %(did you mean 'eplb'",
      message(function() t = plan.open('eplbb', t) end))
    assert.matches("plan laer: unknown parameter 'no_evn' %(did you mean 'no_even'%?%)",
      message(plan.open, 'laer', t, { no_evn = true }))
    assert.matches('no_even is 3; allowed are 0 to 1',
      message(plan.open, 'laer', t, { no_even = 3 }))
    local planner = plan.open('laer', t)
    assert.matches('3 rows; expected are 4', message(planner.plan, planner, { {}, {}, {} }))
    assert.matches('row 1 has 3 elements; expected are 4',
      message(planner.plan, planner, { LOAD[1], { 1, 2, 3 }, LOAD[3], LOAD[4] }))
    assert.matches('rank 0 for expert 1 is nan',
      message(planner.plan, planner, { { 1, 0 / 0, 1, 1 }, LOAD[2], LOAD[3], LOAD[4] })
        :gsub('%-nan', 'nan'))
    assert.matches('it is a string', message(planner.plan, planner, 'load'))
  end)
end)

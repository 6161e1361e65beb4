-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'
local names = require 'neap.runs.names'
local program = require 'tests.cli.program'

--- Runs neap replay and checks the status; the pattern must match stderr. Returns stdout, stderr.
local function expect(status, arguments, pattern)
  local got, out, err = program.run('replay ' .. arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out, err
end

--- A file in a temporary folder with the given text.
local folder = os.tmpname()
os.remove(folder)
os.execute(("mkdir '%s'"):format(folder))

local function write(name, text)
  local path = folder .. '/' .. name
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
  return path
end

local function make_csv(steps)
  local lines = { 'step,layer,rank,e0,e1,e2' }
  for step = 0, steps - 1 do
    for rank = 0, 3 do
      lines[#lines + 1] = ('%d,0,%d,%d,%d,%d'):format(step, rank, 90 + step, 20 + rank, 10)
    end
  end
  return table.concat(lines, '\n') .. '\n'
end

describe('neap replay', function()
  local csv = write('a.csv', make_csv(8))
  local base = ("--trace '%s' --node-size 2 "):format(csv)

  teardown(function() os.execute(("rm -r '%s'"):format(folder)) end)

  it('prints one JSON document', function()
    local out = expect(0, base .. '--slots 2 --policy laer --policy laer+minimax --json')
    local document = json.decode(out)
    assert.are.same({ ranks = 4, experts = 3, layers = 1, steps = 8 }, document.trace)
    assert.are.equal('laer+minimax', document.rows[2].policy)
    for _, p in ipairs(document.rows) do
      assert.is_true(p.imbalance.mean >= 1 and p.imbalance.max >= p.imbalance.p95)
      assert.is_true(p.plan_ms.mean > 0 and p.split_us.p95 > 0)
      assert.are.same({ 0, 'number', 'number', 'number' }, { p.faults, type(p.std_percent),
        type(p.inter_node_share), type(p.slots_changed) })
    end
    assert.is_true(document.rows[2].imbalance.mean < document.rows[1].imbalance.mean + 1e-9)
  end)

  it('prints a table, a row per policy', function()
    local out = expect(0, base .. '--slots 2,1,1,2 --policy static --policy laer:on=known '
      .. '--window 3')
    assert.matches('8 steps of 1 layers, 4 ranks in 2 nodes, 6 slots for 3 experts, scored from '
      .. 'step 3', out)
    assert.matches('\nstatic +%d', out)
    assert.matches('\nlaer:on=known.* %(known loads%) +%d', out)
  end)

  it('refuses wrong usage with status 2', function()
    for arguments, pattern in pairs {
      [base .. '--policy laer'] = 'does not say how many slots a rank has; give %-%-slots',
      [base .. '--slots 0'] = "%-%-slots is '0'",
      [base .. '--slots 2 --policy lear'] = "unknown policy 'lear' %(did you mean 'laer'%?%)",
      [base .. '--slots 2 --policy laer+minmax'] = "did you mean 'minimax'",
      [base .. '--slots 2 --policy laer:windw=3'] = "did you mean 'window'",
      [base .. '--slots 2 --window 8'] = '8 steps; 8 are needed to warm up and one to score',
      [base .. '--slots 1,1'] = 'slots of 2 ranks; there are 4',
      [base .. '--slots 2 --cost 1,2'] = 'cost has 2 values; expected are 3',
      [base .. '--slots 2 --ranks 3'] = 'on 4 ranks, and .*record one on 3 %(neap run RECIPE',
      [base .. '--slots 2 --deadline 1,2'] = "%-%-deadline is '1,2'; it must be a number above 0",
      ['--slots 2'] = "missing option '%-%-trace'",
    } do
      local out = expect(2, arguments, pattern)
      assert.are.equal('', out)
    end
  end)

  it('names the line of a damaged trace, with status 5', function()
    local path = write('bad.csv', make_csv(8):gsub('\n3,0,1,93', '\n3,0,1,x', 1))
    expect(5, ("--trace '%s' --slots 2"):format(path), 'bad.csv')
  end)

  it('counts faults of a policy, and stops at the first with --strict', function()
    local path = write('broken.lua', [[
      local Broken = require('neap.policy').define { name = 'broken' }
      function Broken.plan(_, ctx)
        if ctx.step == 4 then error 'lost count' end
        return ctx.previous
      end
      return Broken]])
    local out, err = expect(0, ("%s --slots 2 --json --policy '%s'"):format(base, path))
    local row = json.decode(out).rows[1]
    assert.are.equal(1, row.faults)
    assert.is_near(6 / 7, row.in_force, 1e-9) -- of steps 1 to 7, 4 went by the plan for 3
    assert.matches('broken.lua:3: plan at step 4, layer 0: lost count', err)
    assert.matches('\nbroken %(in force: 85.7 %%%)', (expect(0,
      ("%s --slots 2 --policy '%s'"):format(base, path))))
    expect(3, ("%s --slots 2 --strict --policy '%s'"):format(base, path), 'lost count')
  end)

  it('says of a policy that was never in force whose row it is, with status 3', function()
    local status, out, err = program.run(('replay %s --slots 2 --json --no-store --policy static '
      .. '--policy tests/policies/fails.lua --policy tests/policies/splits.lua:kind=wrong')
      :format(base))
    assert.are.equal(3, status)
    local rows = json.decode(out).rows
    assert.are.same({ nil, 0, 0 }, { rows[1].in_force, rows[2].in_force, rows[3].in_force })
    assert.are.same({ 8, 3 }, { rows[2].faults, rows[3].faults })
    assert.matches('policy tests/policies/fails.lua was never in force', err)
    assert.matches('kind=wrong was never in force', err)
    assert.are.same({ 'static', 'fails (never in force)', 'splits:kind=wrong (never in force)' },
      names.of(rows))
  end)

  it('passes on what a policy prints, also where stderr is no terminal', function()
    local _, err = expect(0, base .. '--slots 2 --no-store --policy tests/policies/prints.lua')
    assert.are.equal(8, select(2, err:gsub('noise from a policy\n', '')))
    local path = write('mutters.lua', [[
      local P = require('neap.policy').define { name = 'mutters' }
      function P.plan(_, ctx)
        io.write('step ', ctx.step, ' ')
        return ctx.previous
      end
      return P]])
    _, err = expect(0, ("%s --slots 2 --no-store --policy '%s'"):format(base, path))
    assert.matches('step 1 step 2 .*step 8 ', err)
  end)

  it('notes where layouts cannot differ', function()
    expect(0, base .. '--slots 1,1,1,1 --no-store --policy static', '')
    local three = write('three.csv', (make_csv(8):gsub('%d+,0,3,[^\n]*\n', '')))
    expect(0, ("--trace '%s' --slots 1 --no-store --policy static"):format(three),
      'note: there are as many slots as experts %(3%)')
  end)

  it('outlives a policy that never ends', function()
    local path = write('loop.lua', [[
      local Loop = require('neap.policy').define { name = 'loop' }
      function Loop.plan(_, ctx)
        while ctx.step == 6 do end
        return ctx.previous
      end
      return Loop]])
    local out = expect(0, ("%s --slots 2 --json --deadline 0.2 --policy '%s'"):format(base, path))
    assert.are.equal(1, json.decode(out).rows[1].faults)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local layouts = require 'neap.engine.layout'
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'
local command = require 'neap.cli.replay'
local replay = require 'neap.replay'
local split = require 'neap.engine.split'
local topology = require 'neap.engine.topology'
local trace = require 'neap.engine.trace'

local ffi, C = lib.ffi, lib.C

--- A CSV trace of drifting loads in a temporary file, opened.
local function make_trace(steps, layers, ranks, experts)
  local path = os.tmpname() .. '.csv'
  local file, cell = assert(io.open(path, 'w')), 0
  file:write('step,layer,rank')
  for e = 0, experts - 1 do file:write(',e', e) end
  file:write '\n'
  for step = 0, steps - 1 do
    for layer = 0, layers - 1 do
      for rank = 0, ranks - 1 do
        local row = { step, layer, rank }
        for e = 1, experts do
          cell = cell + 1
          row[3 + e] = math.floor(100 * math.exp(C.neap_random_normal(7, layer, e)
            + 0.3 * C.neap_random_normal(7, 99, cell)))
        end
        file:write(table.concat(row, ','), '\n')
      end
    end
  end
  file:close()
  local t = trace.open(path)
  os.remove(path)
  return t
end

describe('replay', function()
  local t = make_trace(9, 2, 6, 5)
  local top = topology.open { ranks = 6, node_size = 4, slots = 2, experts = 5 }

  --- What replay promises, done by hand: plan on the sum of 5 steps, split the exact counts.
  local function by_hand(planner_name, rule)
    local planner, s = plan.open(planner_name, top), split.open(top, rule)
    local layout, sum, count, worst, crossing, tokens = layouts.open(top), 0, 0, 0, 0, 0
    for step = 5, t.steps - 1 do
      for layer = 0, t.layers - 1 do
        local load = ffi.new('double[30]')
        for back = 5, 1, -1 do
          local past = t:load(step - back, layer)
          for i = 0, 29 do load[i] = load[i] + tonumber(past[i]) end
        end
        local b = s:compute(planner:plan(load, nil, 0, layout), t:load(step, layer)):balance()
        sum, count, worst = sum + b.imbalance, count + 1, math.max(worst, b.imbalance)
        crossing, tokens = crossing + b.inter_node, tokens + b.tokens
      end
    end
    return sum / count, worst, crossing / tokens
  end

  it('scores as the definition says', function()
    for name, rule in pairs { laer = 'lite', eplb = 'even', ['laer+minimax'] = 'minimax' } do
      local entry = replay.score { trace = t, topology = top, policy = name, in_process = true }
      local mean, worst, share = by_hand(name:match '^%w+', rule)
      assert.are.equal(worst, entry.imbalance.max, name)
      assert.is_true(math.abs(mean - entry.imbalance.mean) < 1e-12, name)
      assert.is_true(math.abs(share - entry.inter_node_share) < 1e-12, name)
      assert.are.equal(0, entry.faults)
    end
  end)

  it('replays every shipped policy without a fault', function()
    local plans_on = { late = 'both' }
    for _, name in ipairs(policy.names()) do
      local entry, messages = replay.score {
        trace = t, topology = top, policy = name, seed = 3, in_process = true,
      }
      assert.are.equal(0, entry.faults, messages[1])
      assert.is_true(entry.imbalance.mean >= 1 and entry.imbalance.mean < 6, name)
      assert.are.equal(plans_on[name], entry.plans_on)
    end
  end)

  it('makes late changes only if they save more than they cost', function()
    local hard = make_trace(9, 2, 6, 9) -- 3 slots are left over: history alone does not do
    local scarce = topology.open { ranks = 6, node_size = 4, slots = 2, experts = 9 }
    local function row_of(name)
      return (replay.score { trace = hard, topology = scarce, policy = name, seed = 3,
        in_process = true })
    end
    local neap, dear, free = row_of 'neap', row_of 'late:price=1e9', row_of 'late:price=0'
    assert.are.same(neap.imbalance, dear.imbalance)
    assert.are.equal(0, dear.late_experts)
    assert.is_true(free.imbalance.mean < neap.imbalance.mean)
    assert.is_true(free.late_experts > 0)
  end)

  it('is repeatable, and the same in a worker as in process', function()
    for _, name in ipairs { 'random', 'laer+minimax', 'flexmoe' } do
      local results = {}
      for i, in_process in ipairs { true, true, false } do
        local entry = replay.score {
          trace = t, topology = top, policy = name, seed = 5, in_process = in_process,
        }
        results[i] = { entry.imbalance, entry.inter_node_share, entry.slots_changed }
      end
      assert.are.same(results[1], results[2])
      assert.are.same(results[1], results[3])
    end
  end)

  it('counts what a static layout changes as nothing', function()
    local entry = replay.score { trace = t, topology = top, policy = 'static', in_process = true }
    assert.are.equal(0, entry.slots_changed)
  end)

  it('refuses what it cannot do', function()
    local function usage(args)
      local ok, err = pcall(command.run, args)
      assert.is_false(ok)
      assert.are.equal(2, errors.status(err), tostring(err))
      return tostring(err)
    end
    assert.matches("unknown policy 'lear' %(did you mean 'laer'%?%)",
      usage { policy = { 'lear' }, trace = 'x.csv' })
    local path = launcher.home .. '/README.md'
    local ok, err = pcall(command.run, { policy = {}, trace = path .. '.none' })
    assert.is_false(ok)
    assert.matches('README.md.none', tostring(err))
  end)
end)

describe('published scores', function()
  local folder = os.getenv 'NEAP_LOADS' or launcher.home .. '/../shared/loads'
  local SETS = {
    n32_e16_c4 = { 4, static = 1.719, laer = 1.249, eplb = 1.230 },
    n32_e8_c2 = { 2, static = 1.695, laer = 1.374, eplb = 1.173 },
  }
  for _, name in ipairs(lib.sorted_keys(SETS)) do
    local path = ('%s/%s.csv.gz'):format(folder, name)
    local file = io.open(path)
    local test = file and it or pending
    if file then file:close() end
    test('are met within 1 % on ' .. name, function()
      local t, set = trace.open(path), SETS[name]
      local top = topology.open { ranks = 32, node_size = 8, slots = set[1], experts = t.experts }
      for _, p in ipairs { 'static', 'laer', 'eplb' } do
        local entry = replay.score { trace = t, topology = top, policy = p, in_process = true }
        assert.is_true(math.abs(entry.imbalance.mean / set[p] - 1) < 0.01,
          ('%s: %g'):format(p, entry.imbalance.mean))
      end
    end)
  end
end)

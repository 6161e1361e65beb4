-- SPDX-License-Identifier: Apache-2.0

--- The planner in Lua: the same layouts as the C one, by loops that compile.
local lib = require 'neap.base.lib'
local launcher = require 'neap.launcher'
local history = require 'neap.policy.history'
local plan = require 'neap.engine.plan'
local policy = require 'neap.policy'
local topology = require 'neap.engine.topology'

local C = lib.C
local class = policy.load(launcher.home .. '/experiments/policies/laer_lua.lua')

local function make_context(t, seed)
  local loads = history.open(t.ranks, t.experts, 5)
  local load = lib.ffi.new('double[?]', t.ranks * t.experts)
  for step = 1, 5 do
    for i = 0, t.ranks * t.experts - 1 do
      load[i] = math.floor(1000 * math.exp(C.neap_random_normal(seed, 0, i % t.experts)
        + C.neap_random_normal(seed, step, i) / 2))
    end
    loads:push(load)
  end
  return { topology = t, history = loads }
end

--- Bytecodes that the interpreter executes in f(...): compiled code runs without hooks.
local function interpreted(f, ...)
  local count = 0
  debug.sethook(function() count = count + 1 end, '', 1)
  f(...)
  debug.sethook()
  return count
end

describe('laer_lua', function()
  it('plans what the C planner plans', function()
    for seed = 1, 60 do
      local ranks, slots = 1 + seed % 13, 1 + seed % 4
      local t = topology.open {
        ranks = ranks, node_size = 1 + seed % 5, slots = slots,
        experts = math.max(1, math.floor(ranks * slots / (1 + seed % 3))),
      }
      local ctx = make_context(t, seed)
      local layout = plan.open('laer', t):plan(ctx.history:sum(5)) -- owns what array() points to
      local expected = layout:array()
      local got = policy.create(class, {}):plan(ctx)
      for slot = 0, t.slots - 1 do
        assert.are.equal(expected[slot], got[slot + 1], ('seed %d, slot %d'):format(seed, slot))
      end
    end
  end)

  it('compiles its hot loops', function()
    if not jit.status() then return pending 'the JIT compiler is off' end
    local t = topology.open { ranks = 32, node_size = 8, slots = 4, experts = 16 }
    local ctx, object = make_context(t, 1), policy.create(class, {})
    jit.off()
    jit.flush()
    local cold = interpreted(object.plan, object, ctx)
    jit.on()
    assert.is_true(cold > 10000, ('%d bytecodes'):format(cold))
    local warm = math.huge -- traces may start in an unlucky order; more of them come with time
    for _ = 1, 20 do
      for _ = 1, 300 do object:plan(ctx) end
      warm = math.min(warm, interpreted(object.plan, object, ctx))
      if warm < 0.05 * cold then break end
    end
    assert.is_true(warm < 0.1 * cold, ('%d of %d bytecodes are interpreted'):format(warm, cold))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- Costs of a described cluster that are 0 unless it says otherwise: messages, rates by size,
-- interference, tokens sent once for each node, plans and splits.

local breakdown = require 'neap.profile.breakdown'
local clusters = require 'neap.simulate.cluster'
local lateness = require 'neap.simulate.lateness'
local layouts = require 'neap.engine.layout'
local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'
local spans = require 'neap.simulate.timeline'
local splits = require 'neap.engine.split'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local MODEL = { hidden = 512, ffn = 1024, experts = 8, top_k = 2, slots = 2, layers = 3, heads = 8,
  kv_heads = 4, sequence = 512, tokens = 2048, micro_batches = 2, vocabulary = 1000 }

local function machine(changes)
  local all = { ranks = 8, node_size = 4, queued = false }
  for name, value in pairs(changes or {}) do all[name] = value end
  return clusters.describe('a100x8', all)
end

local function open(options)
  local all = { cluster = machine(), model = MODEL, policy = 'laer', schedule = 'neap' }
  for name, value in pairs(options or {}) do all[name] = value end
  return simulate.open(all)
end

local function run(options, steps)
  local s = open(options)
  local row = s:run(steps or 2)
  s:close()
  return row
end

local function message_of(...)
  local ok, err = pcall(...)
  assert.is_false(ok)
  return type(err) == 'table' and err.message or err
end

describe('fields that may be left out', function()
  it('are refused with field, value and range', function()
    for pattern, changes in pairs {
      ['peer is %-1; it must be a number from 0 to 1'] = { peer = -1 },
      ["interference: unknown stream 'unshrd' %(did you mean 'unshard'%?%)"] =
        { interference = { unshrd = {} } },
      ["interference of compute: unknown stream 'token' %(did you mean 'tokens'%?%)"] =
        { interference = { compute = { token = 1 } } },
      ['interference of compute: tokens is %-1; it must be a number from 0'] =
        { interference = { compute = { tokens = -1 } } },
      ['interference: compute is a number; it must be a table'] =
        { interference = { compute = 1 } },
      ['rates is a list; it has a field size'] = { rates = { size = 1 } },
      ['entry 1 of rates must be { bytes of a message, B/s }'] = { rates = { { 1 } } },
      ['entry 2 of rates: 2 bytes at 3 B/s; sizes must grow'] = { rates = { { 1, 1 }, { 2, 3 } } },
      ['deduplicated is a number; it must be a boolean'] = { deduplicated = 1 },
      ['split is %-1; it must be a number from 0 to 10'] = { split = -1 },
    } do
      assert.matches(pattern, message_of(machine, changes))
    end
    assert.matches('node_limit is 0; it must be a whole number', message_of(models.describe, MODEL,
      { node_limit = 0 }))
  end)

  it('cost nothing if they are 0', function()
    local base = run().step_ms
    assert.equal(base, run({ cluster = machine { peer = 0, far_peer = 0, plan = 0, split = 0,
      interference = { compute = { unshard = 0 } } } }).step_ms)
    assert.equal(base, run({ cluster = machine { rates = { { 1, 216.27e9 } } } }).step_ms)
  end)
end)

describe('messages', function()
  -- Static experts of even loads: every exchange but those that nothing is sent in has 7 peers.
  it('cost as much more as there are exchanges between peers', function()
    local near, far = 1e-3, 4e-3
    local function seconds(changes)
      changes.port, changes.uplink, changes.latency, changes.far_latency = 1e15, 1e15, 0, 0
      changes.queued = true
      return run({ policy = 'static', schedule = 'none:hold_combine=true', routing = 'balanced',
        cluster = machine(changes), shard_group = 'all' }, 1).step_ms / 1e3
    end
    local each = 3 * near + 4 * far
    local s = open { policy = 'static', schedule = 'none:hold_combine=true', routing = 'balanced' }
    s:step()
    local exchanges = 0
    for op = 0, #s.cluster.spans do
      local span = s.cluster.spans[op]
      local between = span.name == 'dispatch' or span.name == 'combine' or span.name == 'unshard'
        or span.name == 'reduce'
      if between and span.stream ~= 'compute' then exchanges = exchanges + 1 end
    end
    s:close()
    assert.is_near(seconds {} + exchanges * each, seconds { peer = near, far_peer = far }, 1e-6)
    -- through one rank of the other node: 3 near ones and a far one, for tokens alone
    local less = seconds { peer = near, far_peer = far, deduplicated = true }
    assert.is_true(less < seconds { peer = near, far_peer = far })
  end)

  it('are slow if they are small', function()
    assert.is_true(run { cluster = machine { rates = { { 1e6, 10e9 }, { 64e6, 200e9 } } } }.step_ms
      > run().step_ms)
  end)
end)

describe('interference', function()
  it('makes work longer by as much as it overlaps', function()
    local base = run({ schedule = 'none' })
    local same = run({ schedule = 'none', cluster = machine { interference = {
      compute = { unshard = 0.5, reduce = 0.5 } } } })
    -- What the next micro-batch's first unshard meets is all that there is under none.
    assert.is_true(math.abs(same.step_ms / base.step_ms - 1) < 0.01)
    local free = run()
    local slow = run { cluster = machine { interference = { compute = { unshard = 0.5,
      reduce = 0.5 } } } }
    assert.is_true(slow.compute_ms.expert > free.compute_ms.expert * 1.01)
    assert.is_true(slow.compute_ms.expert < free.compute_ms.expert * 1.5)
    assert.is_near(free.ideal_ms, slow.ideal_ms, 1e-9 * free.ideal_ms)
  end)
end)

describe('tokens that go to a node once', function()
  --- Bytes of uplinks by a split of loads that fill gives: ranks, node size, experts, top_k.
  local function uplinks(o)
    local t = topologies.open { ranks = o.ranks, node_size = o.node_size,
      slots = o.experts / o.ranks, experts = o.experts }
    local layout, split = layouts.open(t), splits.open(t, 'lite')
    local slots = ffi.new('int32_t[?]', o.experts)
    for e = 0, o.experts - 1 do slots[e] = e end
    lib.check(C.neap_layout_set(layout.ptr, slots))
    local load = ffi.new('int64_t[?]', o.ranks * o.experts)
    for r = 0, o.ranks - 1 do
      for e = 0, o.experts - 1 do load[r * o.experts + e] = o.load(r, e) end
    end
    split:compute(layout, load)
    local out = ffi.new('double[?]', t.nodes)
    lib.check(C.neap_split_node_traffic(split.ptr, 1, o.top_k, o.limit or 0, out))
    return out
  end

  it('are those that are, where all go together', function()
    -- 100 tokens of rank 0, each to experts 2 and 3, which are on node 1
    local out = uplinks { ranks = 2, node_size = 1, experts = 4, top_k = 2,
      load = function(r, e) return r == 0 and e >= 2 and 100 or 0 end }
    assert.is_near(100, out[0], 1e-9)
    assert.is_near(100, out[1], 1e-9)
  end)

  it('are as many as drawing without return gives, of even routing, to 2 %', function()
    local none = 1 -- a token misses the 8 experts of a node: C(56, 8) / C(64, 8)
    for i = 0, 7 do none = none * (56 - i) / (64 - i) end
    local out = uplinks { ranks = 8, node_size = 1, experts = 64, top_k = 8,
      load = function() return 1000 end }
    local exact = 7 * 8000 * (1 - none)
    assert.is_true(math.abs(out[3] / exact - 1) < 0.02, ('%g of %g'):format(out[3], exact))
    local limited = uplinks { ranks = 8, node_size = 1, experts = 64, top_k = 8, limit = 4,
      load = function() return 1000 end }
    assert.is_near(8000 * 4 * 7 / 8, limited[3], 1e-6)
  end)

  it('make steps shorter where the uplink is slow', function()
    local slow = { uplink = 5e9 }
    local function ms(model)
      return run({ policy = 'static', schedule = 'eager', cluster = machine(slow), slots = 1,
        model = model }).step_ms
    end
    local all = ms(MODEL)
    slow.deduplicated = true
    local once = ms(MODEL)
    assert.is_true(once < all)
    assert.is_true(ms(models.describe(MODEL, { node_limit = 1 })) < once)
  end)
end)

describe('plans and splits', function()
  it('are waited for on the current counts, in every forward', function()
    local function ms(policy, changes)
      return run({ policy = policy, schedule = 'none', cluster = machine(changes) }, 1).step_ms
    end
    local forwards = MODEL.layers * MODEL.micro_batches
    assert.is_near(ms('static', {}) + 2 * forwards, ms('static', { split = 2e-3 }), 1e-6)
    assert.is_near(ms('laer:on=current', {}) + 3 * forwards,
      ms('laer:on=current', { plan = 3e-3 }), 1e-6)
  end)

  it('are late if they take longer than a micro-batch', function()
    local fresh = run({ policy = 'laer' }, 6)
    assert.equal(fresh.step_ms, run({ cluster = machine { plan = 1e-6 } }, 6).step_ms)
    local late = run({ cluster = machine { plan = 10 } }, 6)
    assert.is_true(late.step_ms ~= fresh.step_ms)
  end)

  it('go by how long a micro-batch lasts', function()
    local l = lateness.open(0.3, 3) -- of a micro-batch of 1 s: ready at 0.4, 0.7 and 1.2
    local list = { [0] = { name = 'counts', phase = 'forward', micro = 0, layer = 0 },
      { name = 'counts', phase = 'forward', micro = 0, layer = 1 },
      { name = 'counts', phase = 'forward', micro = 0, layer = 2 } }
    local at = { [0] = 0.1, 0.4, 0.9 }
    l:learn({ spans = list, report = function() return { seconds = 2 } end,
      times = function(_, op) return nil, { [0] = at[op] } end }, 2)
    assert.same({ [0] = 0, 0, 1 }, l.behind)
    assert.equal(1, l.every)
    local counts = ffi.new('int64_t[1]')
    for micro = 0, 2 do
      counts[0] = micro
      assert.equal(micro, tonumber(l:counts(micro, 0, counts, 8)[0]))
      local last = l:counts(micro, 2, counts, 8)
      assert.equal(micro > 0 and micro - 1 or nil, last and tonumber(last[0]))
    end
  end)
end)

describe('ranks that copy themselves what they exchange', function()
  it('have spans that a measured step has, which fill the step', function()
    for _, dense_last in ipairs { false, true } do
      local s = open { cluster = machine { copied = true, shared = true }, dense_last = dense_last }
      s:step()
      local summary, sum = breakdown.summary(spans.of(s.cluster)), 0
      for _, row in ipairs(summary.compute) do sum = sum + row.mean end
      assert.is_near(s.cluster:report().seconds, sum, 1e-9 * sum)
      s:close()
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- Simulated clusters: descriptions, limits, conservation, monotony, the paper's ratios, timelines.

local ffi = require 'ffi'
local clusters = require 'neap.simulate.cluster'
local op_cost = require 'neap.simulate.op_cost'
local json = require 'neap.base.json'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'
local spans = require 'neap.simulate.timeline'
local synth = require 'neap.engine.synth'
local chrome_trace = require 'neap.profile.chrome_trace'
local topologies = require 'neap.engine.topology'

local MODEL = { hidden = 512, ffn = 1024, experts = 8, top_k = 2, slots = 2, layers = 3, heads = 8,
  kv_heads = 4, sequence = 512, tokens = 2048, micro_batches = 2, vocabulary = 1000 }

local function machine(changes)
  local all = { ranks = 8, node_size = 4 }
  for name, value in pairs(changes or {}) do all[name] = value end
  return clusters.describe('a100x8', all)
end

--- Routing without any imbalance.
local function even_trace(ranks, experts, tokens, layers)
  return { path = 'even', ranks = ranks, experts = experts, layers = layers, steps = 1,
    load = function(_, _, _, out)
      for i = 0, ranks * experts - 1 do out[i] = tokens / experts end
      return out
    end }
end

local function run(options, steps)
  local all = { cluster = machine(), model = MODEL }
  for name, value in pairs(options or {}) do all[name] = value end
  local s = simulate.open(all)
  local row = s:run(steps or 2)
  s:close()
  return row
end

local function message_of(...)
  local ok, err = pcall(...)
  assert.is_false(ok)
  return type(err) == 'table' and err.message or err
end

describe('descriptions of clusters', function()
  it('are known by name, and whole', function()
    assert.same({ 'a100x32', 'a100x8', 'ethernet8', 'h100x256', 'h100x8', 'h200x2', 'laptop' },
      clusters.names())
    for _, name in ipairs(clusters.names()) do clusters.describe(name) end
    assert.equal(32, clusters.describe('a100x32').ranks)
  end)

  it('are refused with field, value and range', function()
    assert.matches("unknown cluster 'a100x31' %(did you mean 'a100x32'%?%)",
      message_of(clusters.describe, 'a100x31'))
    assert.matches('uplink is 0; it must be a number above 0',
      message_of(machine, { uplink = 0 }))
    assert.matches('port is %-5; it must be a number above 0', message_of(machine, { port = -5 }))
    assert.matches('ranks is 2.5; it must be a whole number', message_of(machine, { ranks = 2.5 }))
    assert.matches('gemm is 2; .* at most 1', message_of(machine, { gemm = 2 }))
    assert.matches("unknown field 'uplnk' %(did you mean 'uplink'%?%)",
      message_of(machine, { uplnk = 1 }))
    assert.matches('speed has 2 values; there are 8 ranks', message_of(machine,
      { speed = { 1, 1 } }))
  end)

  it('come from files too', function()
    local path = os.tmpname() .. '.lua'
    local file = io.open(path, 'w')
    file:write "return { ranks = 2 }"
    file:close()
    assert.matches('attention is missing', message_of(clusters.describe, path))
    os.remove(path)
  end)

  it('refuse models and traces that do not fit', function()
    assert.matches("unknown model 'mixtral'", message_of(models.describe, 'mixtral'))
    assert.matches('hidden is %-1; it must be a whole number', message_of(models.describe, MODEL,
      { hidden = -1 }))
    for pattern, changes in pairs {
      ["load: unknown field 'sgima' %(did you mean 'sigma'%?%)"] = { load = { sgima = 1, tau = 1,
        rho = 1 } },
      ['load: rho is missing'] = { load = { sigma = 1, tau = 1 } },
      ['load: tau is 11; it must be a number from 0 to 10'] = { load = { sigma = 1, tau = 11,
        rho = 1 } },
      ['load is a number; it must be a table'] = { load = 3 },
      ['recompute is a number; it must be true or false'] = { recompute = 1 },
      ['ffn is a list; it has a field wide'] = { ffn = { 8, wide = 9 } },
      ["unknown field 'hiden' %(did you mean 'hidden'%?%)"] = { hiden = 8 },
    } do
      assert.matches(pattern, message_of(models.describe, MODEL, changes))
    end
    assert.matches('top_k is 9; there are 8 experts', message_of(models.describe, MODEL,
      { top_k = 9 }))
    assert.matches('1 slots on each of 4 ranks; there are 8 experts', message_of(run,
      { cluster = machine { ranks = 4 }, slots = 1 }))
    assert.matches('even has 4 ranks, 8 experts and 3 layers; .* want 8, 8 and 3 ', message_of(run,
      { trace = even_trace(4, 8, 64, 3) }))
    assert.matches("'lear' is unknown %(did you mean 'laer'%?%)", message_of(run,
      { schedule = 'lear' }))
  end)
end)

describe('a simulated step', function()
  it('adds up on every rank', function()
    local s = simulate.open { cluster = machine(), model = MODEL, policy = 'laer' }
    local r = s:step()
    local sum = r.busy.compute
    for _, seconds in pairs(r.exposed) do sum = sum + seconds end
    assert.is_true(math.abs(sum - r.seconds) < 1e-9 * r.seconds + 1e-12)
    s:close()
  end)

  it('is force-balanced if asked', function()
    local fast = machine { port = math.huge, uplink = math.huge, latency = 0, far_latency = 0 }
    local free = run { policy = 'static', cluster = fast }
    local even = run { policy = 'static', cluster = fast, routing = 'balanced' }
    assert.is_true(even.imbalance.max < 1.001 and free.imbalance.mean > 1.05)
    assert.is_true(even.step_ms < free.step_ms)
    assert.matches('it must be chosen or balanced', message_of(run, { routing = 'even' }))
  end)

  it('is ideal with perfect balance and links without limit', function()
    local row = run { policy = 'static', trace = even_trace(8, 8, 4096, 3),
      cluster = machine { port = math.huge, uplink = math.huge, latency = 0, far_latency = 0 } }
    assert.is_true(math.abs(row.share_of_ideal - 1) < 1e-9)
    assert.is_true(row.exposed < 1e-9)
  end)

  it('is bound by the slowest rank when links have no limit', function()
    local fast = { port = math.huge, uplink = math.huge, latency = 0, far_latency = 0 }
    local row = run { policy = 'static', cluster = machine(fast) }
    assert.is_true(row.imbalance.mean > 1.05 and row.share_of_ideal < 0.99)
    assert.equal(0, row.exposed_ms.unshard)
  end)

  it('is bound by communication when work costs nothing', function()
    local row = run { cluster = machine { flops = 1e30, memory = 1e30, launch = 0, host = 0 } }
    assert.is_true(row.utilization < 1e-6)
    assert.is_true(row.exposed > 0.999999)
  end)

  -- Where exchanges share links, one that ends earlier can meet another one that it did not meet
  -- before: a thousandth of the step.
  it('is never slower on faster links', function()
    for _, field in ipairs { 'port', 'uplink' } do
      for _, schedule in ipairs { 'none', 'eager', 'laer', 'neap' } do
        for _, queued in ipairs { true, false } do
          local last = math.huge
          for _, factor in ipairs { 0.05, 0.2, 1, 5 } do
            local changed = { queued = queued }
            changed[field] = factor * machine()[field]
            local ms = run({ schedule = schedule, cluster = machine(changed) }, 1).step_ms
            assert.is_true(ms <= last * (1 + (queued and 1e-9 or 3e-3)),
              ('%s x %g, %s: %g ms after %g'):format(field, factor, schedule, ms, last))
            last = ms
          end
        end
      end
    end
  end)

  it('is the same twice', function()
    assert.equal(run({ policy = 'neap' }).step_ms, run({ policy = 'neap' }).step_ms)
  end)

  it('takes speeds, unequal experts, shard groups and chunks', function()
    local base = run()
    assert.is_true(run({ cluster = machine { speed = { 0.5, 1, 1, 1, 1, 1, 1, 1 } } }).step_ms
      > base.step_ms)
    assert.is_true(run({ shard_group = 'node' }).exposed_ms.unshard <= base.exposed_ms.unshard)
    assert.is_true(run({ schedule = 'laer:chunks=4,unshard_parts=3' }).step_ms > 0)
    local unequal = models.describe(MODEL,
      { ffn = { 512, 1024, 1536, 1024, 512, 1024, 1536, 1024 } })
    assert.is_true(run({ model = unequal }).imbalance.mean >= 1)
  end)
end)

describe('a plan on the counts', function()
  --- First begin and last end over ranks of the operations of a layer with a name.
  local function times(c, name, layer, phase)
    local begin, finish, found = math.huge, 0, 0
    for op = 0, #c.spans do
      local label = c.spans[op]
      if label.name == name and label.layer == layer and label.phase == phase
        and label.micro == 0 then
        local from, to = c:times(op)
        for r = 0, c.topology.ranks - 1 do
          begin, finish = math.min(begin, from[r]), math.max(finish, to[r])
        end
        found = found + 1
      end
    end
    return begin, finish, found
  end

  it('is waited for by the experts that it changes, and by no others', function()
    local s = simulate.open { cluster = machine(), model = MODEL, policy = 'ultraep:on=current',
      in_process = true }
    s:step()
    local late = 0
    for layer = 0, s.model.layers - 1 do
      local begin, finish, n = times(s.cluster, 'late', layer, 'forward')
      local first, last = times(s.cluster, 'expert', layer, 'forward')
      local _, counted = times(s.cluster, 'counts', layer, 'forward')
      if n > 0 then
        assert.is_true(begin >= counted - 1e-12 and finish <= last + 1e-12)
        assert.is_true(first < finish, 'slots that are kept begin while others arrive')
        late = late + 1
      end
      assert.are.equal(0, (select(3, times(s.cluster, 'late', layer, 'backward'))))
    end
    assert.is_true(late > 0)
    s:close()
  end)

  it('has a price that follows links, work and tokens', function()
    local function price(changes, options)
      local all = { cluster = machine(changes), model = MODEL, policy = 'static' }
      for name, value in pairs(options or {}) do all[name] = value end
      local s = simulate.open(all)
      local work = s.step_cost:fetch_work(2048 * 2 * 8)
      local half = s.step_cost:fetch_work(2048 * 8)
      assert.is_near(work, 2 * half, 1e-9 * work)
      local _, each = s.step_cost.op_cost:expert_line(0)
      s:close()
      return work * each
    end
    local bytes = 3 * 512 * 1024 * 2
    local fast = { port = 1e9, uplink = 1e12, latency = 0, far_latency = 0 }
    assert.is_near(bytes / 1e9, price(fast), 1e-9)
    fast.uplink, fast.far_latency = 1e8, 0.5 -- half of an expert comes from the other node
    assert.is_near(bytes / 2 / 1e8 + 0.5, price(fast), 1e-9)
    assert.is_near(bytes / 1e9, price(fast, { shard_group = 'node' }), 1e-9)
    assert.is_near(bytes / 1e9, price(fast, { shard_group = 'resident', ep = 4 }), 1e-9)
  end)

  it('is not made by policy late where its price exceeds what it saves', function()
    local function late(changes)
      return run { policy = 'late', cluster = machine(changes) }.late_experts
    end
    assert.are.equal(0, late { uplink = 1e5 })
    assert.is_true(late { latency = 0, far_latency = 0, port = 1e15, uplink = 1e15 } > 0)
  end)

  it('costs the time of what changes: nothing if loads are known, all slots at most', function()
    local function row_of(policy)
      return run { policy = policy, schedule = 'eager', cluster = machine { uplink = 5e9 } }
    end
    local known, current = row_of 'laer:on=known', row_of 'laer:on=current'
    assert.is_true(current.exposed_ms.late > 0)
    assert.is_nil(known.exposed_ms.late)
    assert.is_true(current.step_ms > known.step_ms)
    assert.is_true(current.late_experts > 0 and current.late_experts <= 8 * 2)
    local none = current.bytes_per_step.late == 0
    assert.are.equal(none, current.late_experts == 0)
    assert.are.same({ 'current', 'known' }, { current.plans_on, known.plans_on })
  end)
end)

describe('layers that repeat', function()
  it('are as long as those that they repeat', function()
    local one = run { distinct = 1, schedule = 'none' }
    assert.equal(1, one.distinct)
    assert.is_true(one.step_ms > 0 and one.imbalance.mean >= 1)
    assert.equal(run({ distinct = 3 }).step_ms, run().step_ms)
    assert.matches('distinct is 4; it must be a whole number from 1 to 3', message_of(run,
      { distinct = 4 }))
  end)

  it('are the rule where loads are many', function()
    local s = simulate.open { cluster = clusters.describe('h100x256', { ranks = 2048 }),
      model = models.describe('moe-671b', { layers = 20 }), policy = 'static' }
    assert.equal(8, s.options.distinct)
    s:close()
  end)
end)

describe('the cost of work', function()
  it('is that of the published planner for its experts', function()
    local model = models.describe 'mixtral-8x7b-e8k2'
    local first, each = op_cost.of(clusters.describe 'a100x32', model):expert_line(0)
    assert.is_true(math.abs((first + 4096 * each) / 6.7096e-3 - 1) < 0.08)
  end)

  it('grows with tokens, and less than in proportion', function()
    local c = op_cost.of(machine(), models.describe(MODEL))
    local first, each = c:expert_line(0)
    assert.is_true(first > 0 and each > 0)
    assert.is_true(c:product(64, 512, 512) * 2 > c:product(128, 512, 512))
  end)
end)

describe('synthetic routing', function()
  local OPTIONS = { ranks = 8, experts = 16, top_k = 4, tokens = 1000, layers = 2, sigma = 1.72,
    tau = 0.77, rho = 0.989, seed = 5 }

  it('gives every rank its tokens, no expert twice per token', function()
    local s = synth.open(OPTIONS)
    for step = 0, 5 do
      local load = s:load(step, 1)
      for r = 0, 7 do
        local sum = 0
        for e = 0, 15 do
          local tokens = tonumber(load[r * 16 + e])
          assert.is_true(tokens >= 0 and tokens <= 1000)
          sum = sum + tokens
        end
        assert.equal(4000, sum)
      end
    end
  end)

  it('depends on seed, step and layer alone', function()
    local a, b = synth.open(OPTIONS), synth.open(OPTIONS)
    for step = 0, 3 do a:load(step, 0) end
    local x, y = a:load(3, 1), b:load(3, 1)
    assert.equal(ffi.string(x, 8 * 16 * 8), ffi.string(y, 8 * 16 * 8))
  end)

  it('refuses what makes no sense', function()
    local bad = {}
    for name, value in pairs(OPTIONS) do bad[name] = value end
    bad.rho = 2
    assert.matches('rho is 2; it must be a number from 0 to 1', message_of(synth.open, bad))
  end)
end)

describe('the timeline of a simulated step', function()
  local s

  before_each(function()
    s = simulate.open { cluster = machine(), model = MODEL, policy = 'laer' }
    s:step()
  end)

  after_each(function() s:close() end)

  it('has every stream of every rank, without overlap, and a marked path', function()
    local ranks, marked = spans.of(s.cluster), 0
    assert.equal(8, #ranks)
    for _, list in ipairs(ranks) do
      local last = {}
      for _, span in ipairs(list) do
        assert.is_true(span.begin >= (last[span.stream] or 0) - 1e-12)
        last[span.stream] = span.finish
        marked = marked + (span.critical and 1 or 0)
      end
    end
    assert.equal(#s.cluster:critical(), marked)
  end)

  it('is written for viewers, with arrows', function()
    local events, arrows = chrome_trace.events { { ranks = spans.of(s.cluster, 2) } }, 0
    for _, text in ipairs(events) do
      arrows = arrows + (json.decode(text).ph == 's' and 1 or 0)
    end
    assert.is_true(arrows >= 2 * MODEL.layers)
  end)

  it('is told on one screen', function()
    local text = spans.text(s.cluster)
    assert.matches('step of [%d.]+ ms, ideal [%d.]+ ms; last: dense gather on rank %d', text)
    assert.matches('exposed: wait for tokens', text)
    assert.is_true(select(2, text:gsub('\n', '')) < 25)
  end)
end)

describe('a program', function()
  it('is refused for a topology of another size', function()
    local t = topologies.open { ranks = 4, slots = 2, experts = 8 }
    assert.matches('a topology of 4 ranks; the machine has 8', message_of(clusters.open, machine(),
      t))
  end)
end)

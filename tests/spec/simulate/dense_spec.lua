-- SPDX-License-Identifier: Apache-2.0

-- Models with shared experts and dense layers, and from files: sizes and times by other formulas.

local models = require 'neap.simulate.models'
local op_cost = require 'neap.simulate.op_cost'
local simulate = require 'neap.simulate'

local MACHINE = { ranks = 1, node_size = 1, flops = 1e12, gemm = 0.5, attention = 0.5, tile = 0,
  memory = 1e11, launch = 0, host = 0, port = 1e9, uplink = 1e9, latency = 0, far_latency = 0,
  capacity = 80e9, queued = false }

local MODEL = { hidden = 64, ffn = 96, experts = 8, top_k = 2, slots = 8, layers = 5, heads = 4,
  kv_heads = 4, sequence = 32, vocabulary = 128, tokens = 64, micro_batches = 1, recompute = false }

local function step(changes, schedule)
  local s = simulate.open { cluster = MACHINE, model = models.describe(MODEL, changes),
    policy = 'static', warm_up = 0, schedule = schedule }
  local report = s:step()
  s:close()
  return report.seconds
end

--- Seconds of a network of three products, forward: of the two that lead in and the one out, and
-- of its elementwise passes.
local function network(f)
  local into, out = 2 * 64 * 64 * 2 * f / 5e11, 2 * 64 * f * 64 / 5e11
  return into, out, 8 * 64 * f * 2 / 1e11
end

-- A parameter more takes 40 bytes of the optimizer's passes.
local function optimizer(parameters) return 40 * parameters / 1e11 end

describe('shared experts', function()
  it('cost their products and passes in every layer, thrice the forward', function()
    local into, out, pass = network(3 * 96)
    local expected = 5 * 3 * (into + out + pass) + optimizer(5 * 3 * 64 * 3 * 96)
    assert.is_near(expected, step { shared_experts = 3 } - step {}, 1e-9 * expected)
  end)

  it('are computed again where layers are, by whatever says so', function()
    local into, out, pass = network(96)
    local more = step({ shared_experts = 1, recompute = true }) - step { recompute = true }
    local expected = 5 * 4 * (into + out + pass) + optimizer(5 * 3 * 64 * 96)
    assert.is_near(expected, more, 1e-9 * expected)
    more = step({ shared_experts = 1 }, 'neap:recompute=true') - step({}, 'neap:recompute=true')
    assert.is_near(expected, more, 1e-9 * expected)
  end)

  it('are as wide as the mean of experts that differ', function()
    local m = models.describe(MODEL, { shared_experts = 2, ffn = { 1, 2, 3, 4, 5, 6, 7, 9 } })
    local shared, dense = models.dense_widths(m)
    assert.are.same({ 2 * 5, 4 * 5 }, { shared, dense })
  end)
end)

describe('dense layers', function()
  it('have a network instead of router, dispatch and experts', function()
    local c = op_cost.of(MACHINE, models.describe(MODEL))
    local forward, backward = c:attention(64)
    local into, out, pass = network(200)
    local residual = 3 * 64 * 64 * 2 / 1e11
    local layer = forward + backward + 3 * (into + out + pass + residual)
    local parameters = 4 * 64 * 64 + 3 * 64 * 200
    local expected = 2 * layer + optimizer(2 * parameters)
    local two = step { layers = 7, dense_layers = 2, dense_ffn = 200 }
    assert.is_near(expected, two - step {}, 1e-9 * expected)
  end)

  it('count as the model says', function()
    -- DeepSeek-V3's feed-forward networks; its attention has fewer parameters than this one
    local m = models.describe { hidden = 7168, ffn = 2048, experts = 256, top_k = 8, slots = 4,
      layers = 61, heads = 128, kv_heads = 128, sequence = 4096, vocabulary = 129280,
      shared_experts = 1, dense_layers = 3, dense_ffn = 18432 }
    assert.are.equal(58, models.moe_layers(m))
    local networks = 58 * 257 * 3 * 7168 * 2048 + 3 * 3 * 7168 * 18432
    local others = 61 * 4 * 7168 ^ 2 + 58 * 7168 * 256 + 2 * 129280 * 7168
    assert.are.equal(networks + others, op_cost.of(MACHINE, m):total_parameters())
  end)

  it('take no loads of their own', function()
    local s = simulate.open { cluster = MACHINE, model = models.describe(MODEL,
      { dense_layers = 3 }), policy = 'static' }
    assert.are.equal(2, s.options.distinct)
    s:step()
    local seen = {}
    for op = 0, #s.cluster.spans do
      local span = s.cluster.spans[op]
      if span.name == 'ffn' then seen[span.phase] = (seen[span.phase] or 0) + 1 end
      assert.is_true((span.layer or 0) < 2)
    end
    s:close()
    assert.are.same({ forward = 3, backward = 3 }, seen)
  end)
end)

describe('a model of a file', function()
  local path

  before_each(function() path = os.tmpname() .. '.lua' end)
  after_each(function() os.remove(path) end)

  local function describe_file(text)
    local file = assert(io.open(path, 'w'))
    file:write(text)
    file:close()
    return models.describe(path)
  end

  local function refuses(text, pattern)
    local ok, err = pcall(describe_file, text)
    assert.is_false(ok)
    assert.are.equal('USAGE', err.code)
    assert.matches(pattern, err.message)
  end

  it('has the fields that it says, and defaults for others', function()
    local m = describe_file [[return { doc = 'small', hidden = 64, ffn = 96, experts = 8, top_k = 2,
      slots = 2, layers = 4, heads = 4, kv_heads = 4, dense_layers = 1 }]]
    assert.are.same({ 4, 1, 0, 8192, 3 }, { m.layers, m.dense_layers, m.shared_experts,
      m.sequence, models.moe_layers(m) })
  end)

  it('is refused with its place, field and range', function()
    local rest = "hidden = 64, ffn = 96, experts = 8, top_k = 2, slots = 2, layers = 4, "
      .. 'heads = 4, kv_heads = 4 }'
    refuses('return {', 'model .*%.lua:1:')
    refuses('return 5', 'the file must return a table')
    refuses("error 'no'", 'model .*no')
    refuses('return { shared_expert = 1, ' .. rest, "unknown field 'shared_expert' %(did you mean")
    refuses('return { dense_layers = 4, ' .. rest, 'dense_layers is 4; it must be less than the 4')
    refuses('return { shared_experts = -1, ' .. rest, 'shared_experts is %-1; .* from 0 to 2%^31')
    refuses('return { doc = 1, ' .. rest, 'doc is a number; it must be a text')
    assert.has_error(function() models.describe 'nowhere/model.lua' end)
    local ok, err = pcall(models.describe, 'mixtral-8x7b-e8k1')
    assert.is_false(ok)
    assert.matches("did you mean 'mixtral%-8x7b%-e8k2'", err.message)
  end)
end)

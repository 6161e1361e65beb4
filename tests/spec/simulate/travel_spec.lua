-- SPDX-License-Identifier: Apache-2.0

-- What travels in FP8 takes its bytes on the links, and a pass through memory where it arrives.

local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'

local MACHINE = { ranks = 4, node_size = 2, flops = 1e12, gemm = 0.5, attention = 0.5, tile = 0,
  memory = 1e11, launch = 0, host = 0, port = 1e8, uplink = 1e8, latency = 0, far_latency = 0,
  capacity = 80e9, queued = false }

local MODEL = { hidden = 160, ffn = 96, experts = 8, top_k = 2, slots = 2, layers = 3, heads = 4,
  kv_heads = 4, sequence = 32, vocabulary = 128, tokens = 64, micro_batches = 1, recompute = false }

--- Of a step's operations by stream, name and phase: bytes of rank 0's port, and mean seconds of
-- computation.
local function amounts(options)
  local given = { cluster = MACHINE, model = models.describe(MODEL), policy = 'static',
    warm_up = 0, schedule = 'none' }
  for name, value in pairs(options) do given[name] = value end
  local s, sums = simulate.open(given), {}
  local function add(stream, span, value)
    local name = table.concat({ stream, span.name, span.phase }, ' ')
    sums[name] = (sums[name] or 0) + value
  end
  local exchange = s.cluster.exchange
  function s.cluster.exchange(cluster, span, stream, o)
    add(stream, span, o.ports and o.ports[0] or 0)
    return exchange(cluster, span, stream, o)
  end
  s:step()
  for op, span in pairs(s.cluster.spans) do
    if span.stream == 'compute' then add('compute', span, s.cluster:operation(op)) end
  end
  s:close()
  return sums
end

--- Asserts that only what is named differs: by a factor, or seconds more.
local function assert_changes(plain, changed, factors, more)
  for name in pairs(changed) do
    local expected = (plain[name] or 0) * (factors[name] or 1) + (more[name] or 0)
    assert.is_near(expected, changed[name], 1e-9 * expected + 1e-13, name)
  end
  for name in pairs(factors) do assert.is_true(plain[name] > 0, name) end
end

describe('FP8 on the way', function()
  local plain = amounts {}

  it('is that of parameters, whose gradients stay as they are', function()
    local bytes = 2 * 3 * 160 * 96 * 2 -- of a rank's slots, in one unshard of the 3 and more
    local forward, backward = plain['unshard unshard forward'], plain['unshard unshard backward']
    local unshards = 3 * (forward + backward) / forward
    assert_changes(plain, amounts { unshard = 'fp8' },
      { ['unshard unshard forward'] = 33 / 64, ['unshard unshard backward'] = 33 / 64 },
      { ['compute unshard'] = unshards * bytes * (1 + 33 / 64) / 1e11 })
  end)

  it('is that of tokens to their experts, not back, nor of their gradients', function()
    local rows, share = 64 * 2 * 160 * 2, 2 * 132 / 160 / 2 -- of 160 numbers, which are two blocks
    assert_changes(plain, amounts { dispatch = 'fp8' }, { ['tokens dispatch forward'] = share },
      { ['compute dispatch forward'] = 3 * rows * (1 + share) / 1e11 })
  end)

  it('is refused where nothing travels, and by another name', function()
    assert.has_error(function() amounts { unshard = 'fp8', shard_group = 'resident' } end)
    assert.has_error(function() amounts { dispatch = 'fp4' } end)
  end)
end)

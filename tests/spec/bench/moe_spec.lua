-- SPDX-License-Identifier: Apache-2.0

--- neap bench moe --device=cuda, with the CPU in the GPU's place: what it measures, and how PyTorch
-- takes its turn.

local ceilings = require 'neap.bench.moe.ceilings'
local layer = require 'neap.bench.moe.gpu_layer'
local process = require 'neap.bench.peers.process'

local SHAPE = { experts = 4, top_k = 2, hidden = 64, ffn = 48 }
local TOKENS = 600

--- A program in the place of layer.py.
local function script(text)
  local path = os.tmpname()
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
  return path
end

local ANSWERS = [=[
import json, sys, time
order = json.loads(sys.argv[1])
file = open(sys.argv[2])
while True:
    word = file.readline().strip()
    if word == 'rows':
        print(json.dumps([order['tokens']]), flush=True)
    elif word == 'fail':
        sys.exit('RuntimeError: out of memory')
    elif word:
        print('true', flush=True)
    else:
        time.sleep(1e-3)
]=]

describe('bench moe on a GPU', function()
  it('samples each load beside dense products', function()
    local dense = ceilings.dense(64)
    assert.is_true(dense:burst() > 0)
    local step = layer.open(SHAPE, { 'balanced', 'skewed' }, TOKENS, dense)
    for _ = 1, 3 do step:sample() end
    assert.is_true(step:latest() > 0)
    local rows = step:rows()
    step:close()
    dense:close()
    assert.are.equal(2, #rows)
    for i, row in ipairs(rows) do
      assert.are.equal(i == 1 and 'balanced' or 'skewed', row.load)
      assert.are.equal(3, row.samples)
      assert.are.equal(48, row.ffn)
      assert.is_true(row.both_ms > row.forward_ms and row.forward_ms > 0)
      assert.is_true(row.dense_tflops > 0)
    end
    assert.is_true(math.abs(rows[1].hottest - 1) < 0.1)
    local sum = 1 + 2 ^ -0.6 + 3 ^ -0.6 + 4 ^ -0.6
    assert.is_true(math.abs(rows[2].hottest - 4 / sum) < 0.1)
  end)

  it('measures what the layer keeps', function()
    local p = { experts = 4, top_k = 3, hidden = 512, ffn = 256 }
    local dense = ceilings.dense(64)
    dense:rate(1)
    local step = layer.open(p, { 'balanced' }, 2000, dense)
    local kept = step:rows()[1].kept_bytes
    step:close()
    dense:close()
    -- x, logits and probabilities; a choice's expert, weight and its gradient, position and token;
    -- gate and up. One rank makes inputs again; outputs and their gradients are in the workspace of
    -- all layers
    local choice = 5 * 4 + 2 * 2 * p.ffn
    assert.is_true(math.abs(kept / (2 * p.hidden + 8 * p.experts + p.top_k * choice) - 1) < 0.02,
      kept)
  end)

  it('copies', function()
    assert.is_true(ceilings.copy(1e5, 2) > 1e6)
  end)

  it('asks PyTorch in turn, and tells why it fails', function()
    local path = script(ANSWERS)
    local torch = process.open(path, { tokens = 7 })
    assert.is_true(torch:ask 'prepare')
    for _ = 1, 3 do assert.is_true(torch:ask 'sample') end
    assert.are.same({ 7 }, torch:ask 'rows')
    assert.is_nil(torch:ask 'fail')
    assert.are.equal('RuntimeError: out of memory', torch.failure)
    assert.is_nil(torch:ask 'sample')
    torch:close()
    os.remove(path)
    assert.is_nil(io.open(torch.orders))
  end)

  it('says that there is no PyTorch', function()
    local path = script 'import a_module_that_is_not_there'
    local torch = process.open(path, {})
    assert.is_nil(torch:ask 'prepare')
    assert.matches('a_module_that_is_not_there', torch.failure)
    torch:close()
    os.remove(path)
  end)
end)

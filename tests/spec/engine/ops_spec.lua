-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local gradients = dofile(lib.home .. '/tests/gradients.lua')

local random, dot = gradients.random, gradients.dot

local function new(...) return tensor.new('f64', ...) end

local function failure(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return err.code .. ': ' .. err.message
end

describe('ops', function()
  it('linear and its gradients', function()
    local x, w, y, dy = random(5, 7), random(7, 3), new(5, 3), random(5, 3)
    local function loss() return dot(ops.linear(x, w, y), dy) end
    local dx, dw = new(5, 7), new(7, 3)
    ops.linear_input_grad(dy, w, dx)
    ops.linear_weight_grad(x, dy, dw)
    gradients.check(loss, { { x, dx }, { w, dw } })
    local once, half = dw:tolist(), dx:tolist()
    ops.linear_weight_grad(x, dy, dw, true)
    ops.linear_input_grad(dy, w, dx, true)
    assert.is_true(math.abs(dw:tolist()[2][1] - 2 * once[2][1]) < 1e-12)
    for row, values in ipairs(dx:tolist()) do
      for column, value in ipairs(values) do
        assert.is_true(math.abs(value - 2 * half[row][column]) < 1e-12)
      end
    end
  end)

  it('embedding and its gradient', function()
    local ids, table, y, dy = gradients.random_ids(9, 4), random(4, 3), new(9, 3), random(9, 3)
    local dtable = tensor.zeros('f64', 4, 3)
    ops.embedding_grad(ids, dy, dtable)
    gradients.check(function() return dot(ops.embedding(ids, table, y), dy) end,
      { { table, dtable } })
  end)

  it('rmsnorm and its gradients', function()
    local x, gain, dy = random(6, 5), random(5), random(6, 5)
    local y, rstd, dx, dgain = new(6, 5), new(6), new(6, 5), tensor.zeros('f64', 5)
    local function loss() return dot(ops.rmsnorm(x, gain, 1e-3, y, rstd), dy) end
    loss()
    ops.rmsnorm_grad(x, gain, rstd, dy, dx, dgain)
    gradients.check(loss, { { x, dx }, { gain, dgain } })
    loss()
    local terms, sum = ops.rmsnorm_gain_terms(x, rstd, dy, new(6, 5)):tolist(), 0
    for t = 1, 6 do sum = sum + terms[t][3] end
    assert.is_true(math.abs(sum - dgain:data()[2]) < 1e-12)
  end)

  it('rotary, and its inverse as the gradient', function()
    local sequence, d, heads = 5, 4, 3
    local table = ops.rotary_table(100, new(sequence, d))
    local x, dy = random(2 * sequence, heads * d + 2), random(2 * sequence, heads * d + 2)
    local y = new(2 * sequence, heads * d + 2)
    local dx = new(2 * sequence, heads * d + 2):copy(dy)
    ops.rotary(dx, heads, table, true)
    gradients.check(function() return dot(ops.rotary(y:copy(x), heads, table), dy) end,
      { { x, dx } })
    assert.are.equal(x:data()[d * heads], y:data()[d * heads])
    local angle = 3 * 100 ^ (-2 / d)
    local expected = x:tolist()[4][2] * math.cos(angle) - x:tolist()[4][4] * math.sin(angle)
    assert.is_true(math.abs(y:tolist()[4][2] - expected) < 1e-12)
  end)

  local function attention(heads, kv_heads, sequence, sequences, d)
    local t = sequence * sequences
    local qkv, dy = random(t, (heads + 2 * kv_heads) * d), random(t, heads * d)
    local y, lse, dqkv = new(t, heads * d), new(t, heads), new(t, (heads + 2 * kv_heads) * d)
    local function loss()
      return dot(ops.attention(qkv, heads, kv_heads, sequence, y, lse), dy)
    end
    loss()
    ops.attention_grad(qkv, y, lse, dy, heads, kv_heads, sequence, dqkv)
    gradients.check(loss, { { qkv, dqkv } })
  end

  it('attention and its gradient, with as many and with fewer key heads', function()
    attention(2, 2, 5, 2, 3)
    attention(4, 2, 7, 1, 2)
    attention(3, 1, 1, 4, 2)
  end)

  it('attention agrees with the textbook', function()
    local qkv = random(3, 6)
    local y, rows = new(3, 2), qkv:tolist()
    ops.attention(qkv, 1, 1, 3, y, new(3, 1))
    local weights, total, expected = {}, 0, 0
    for s = 1, 3 do
      weights[s] = math.exp((rows[3][1] * rows[s][3] + rows[3][2] * rows[s][4]) / math.sqrt(2))
      total = total + weights[s]
    end
    for s = 1, 3 do expected = expected + weights[s] / total * rows[s][6] end
    assert.is_true(math.abs(y:tolist()[3][2] - expected) < 1e-12)
  end)

  it('cross entropy and its gradient; negative targets do not count', function()
    local logits, targets = random(6, 4), gradients.random_ids(6, 4)
    targets:data()[2] = -1
    local loss, dlogits = new(6), new(6, 4)
    local function total()
      ops.cross_entropy(logits, targets, 0, loss, nil)
      local sum = 0
      for i = 0, 5 do sum = sum + loss:data()[i] end
      return sum / 6
    end
    ops.cross_entropy(logits, targets, 1 / 6, nil, dlogits)
    gradients.check(total, { { logits, dlogits } })
    assert.are.equal(0, loss:data()[2])
    ops.cross_entropy(logits, targets, 1 / 6, nil, logits)
    assert.are.same(dlogits:tolist(), logits:tolist())
  end)

  it('swiglu, whose gradient is that of finite differences', function()
    local gate_up, w = gradients.random(3, 10), gradients.random(3, 5)
    local y = ops.swiglu(gate_up, new(3, 5))
    local gate, up = gate_up:data()[13], gate_up:data()[18]
    assert.is_true(math.abs(y:data()[8] - gate / (1 + math.exp(-gate)) * up) < 1e-14)
    local function value() return gradients.dot(ops.swiglu(gate_up, y), w) end
    gradients.check(value, { { gate_up, ops.swiglu_grad(gate_up, w, new(3, 10)) } })
    assert.matches('SHAPE: swiglu: gate_up has 5 columns; expected an even number',
      failure(ops.swiglu, w, y))
    assert.matches('SHAPE: swiglu_grad: dgate_up is f64 %(3, 5%); expected f64 %(3, 10%)',
      failure(ops.swiglu_grad, gate_up, w, y))
  end)

  it('elementwise operations', function()
    local a, b = tensor.of('f32', { 1, 2, 3 }), tensor.of('f32', { 10, 20, 30 })
    assert.are.same({ 11, 22, 33 }, ops.add(a, b, tensor.new('f32', 3)):tolist())
    assert.are.equal(14, ops.sum_squares(a))
  end)

  it('take bf16 with f32 for sums, statistics and logits', function()
    local x, w = tensor.of('bf16', { { 1, 2 } }), tensor.of('bf16', { { 1 }, { 2 ^ -9 } })
    assert.are.same({ { 1 } }, ops.linear(x, w, tensor.new('bf16', 1, 1)):tolist())
    local logits = ops.linear(x, w, tensor.new('f32', 1, 1))
    assert.are.same({ { 1 + 2 ^ -8 } }, logits:tolist())
    local dw = ops.linear_weight_grad(x, tensor.of('bf16', { { 3 } }), tensor.zeros('f32', 2, 1))
    assert.are.same({ { 3 }, { 6 } }, dw:tolist())
    local loss, grad = tensor.new('f32', 1), tensor.new('bf16', 1, 1)
    ops.cross_entropy(logits, tensor.of('i32', { 0 }), 1, loss, grad)
    assert.are.same({ 0 }, loss:tolist())
    assert.matches('SHAPE: cross_entropy: logits is bf16; expected f32 or f64',
      failure(ops.cross_entropy, x, tensor.of('i32', { 0 }), 1, loss, nil))
    assert.matches('SHAPE: linear_weight_grad: dw is bf16 %(2, 1%); expected f32 %(2, 1%)',
      failure(ops.linear_weight_grad, x, grad, w))
    assert.matches('SHAPE: rmsnorm: rstd is bf16 %(1%); expected f32 %(1%)',
      failure(ops.rmsnorm, x, tensor.new('bf16', 2), 1e-5, x, tensor.new('bf16', 1)))
    assert.matches('SHAPE: adamw: grad is bf16', failure(ops.adamw,
      lib.ffi.new('neap_adamw', { step = 1, eps = 1 }), x, x, x, x))
  end)

  it('names operation, argument and shapes when they do not fit', function()
    local x, w = new(2, 3), new(4, 5)
    assert.are.equal('SHAPE: linear: w is f64 (4, 5); expected f64 (3, any)',
      failure(ops.linear, x, w, x))
    assert.are.equal('SHAPE: linear: y is f32 (2, 5); expected f64 (2, 5)',
      failure(ops.linear, new(2, 4), w, tensor.new('f32', 2, 5)))
    assert.matches('SHAPE: linear: x is i32', failure(ops.linear, tensor.new('i32', 2, 3), w, x))
    assert.matches('ARGUMENT: embedding: id 4 of row 1; allowed are 0 to 3',
      failure(ops.embedding, tensor.of('i32', { 0, 4 }), w, new(2, 5)))
    assert.matches('ARGUMENT: cross_entropy: id 5 of row 0; allowed are .* to 4',
      failure(ops.cross_entropy, w, tensor.new('i32', 4):fill(5), 1, nil, nil))
    assert.matches('ARGUMENT: attention: 3 heads and 2 kv heads',
      failure(ops.attention, x, 3, 2, 1, x, x))
    assert.matches('SHAPE: attention: qkv has 5 columns; expected a multiple of .* 3',
      failure(ops.attention, w, 1, 1, 1, x, x))
    assert.matches('SHAPE: attention: qkv has 2 rows; expected a multiple of the sequence length 4',
      failure(ops.attention, x, 1, 1, 4, x, x))
    assert.matches('SHAPE: add: b is f64 %(4, 5%); expected f64 with 6 elements',
      failure(ops.add, x, w, x))
  end)

  it('takes no rows at all', function()
    local none = new(0, 3)
    ops.linear(none, new(3, 2), new(0, 2))
    local dw = new(3, 2):fill(7)
    ops.linear_weight_grad(none, new(0, 2), dw)
    assert.are.same({ { 0, 0 }, { 0, 0 }, { 0, 0 } }, dw:tolist())
    ops.attention(none, 1, 1, 4, new(0, 1), new(0, 1))
    ops.embedding(tensor.new('i32', 0), new(4, 3), none)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'

local function failure(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return err.code .. ': ' .. err.message
end

describe('tensor', function()
  it('has dimensions, a type and aligned memory', function()
    for _, dtype in ipairs { 'bf16', 'f32', 'f64', 'i32', 'i64', 'u8' } do
      local t = tensor.new(dtype, 3, 5, 2)
      assert.are.same({ 3, 5, 2 }, { t:dims() })
      assert.are.equal(30, t.count)
      assert.are.equal(0, tonumber(lib.ffi.cast('uintptr_t', t:data()) % 64))
      assert.is_true(t:has_dims(3, 5, 2))
      assert.is_false(t:has_dims(3, 5))
    end
  end)

  it('takes and gives lists', function()
    local rows = { { 1, 2, 3 }, { 4, 5, 6 } }
    local t = tensor.of('f64', rows)
    assert.are.same({ 2, 3 }, { t:dims() })
    assert.are.same(rows, t:tolist())
    assert.are.equal('f64 (2, 3): 1 2 3 4 5 6', tostring(t))
    assert.are.equal('i32 (9): 7 7 7 7 7 7 7 7 …', tostring(tensor.new('i32', 9):fill(7)))
    assert.matches('SHAPE: tensor: a row has 1 elements; another has 2',
      failure(tensor.of, 'f32', { { 1, 2 }, { 3 } }))
  end)

  it('rounds to bf16, and shows its numbers', function()
    local t = tensor.of('bf16', { { 1, 1 + 2 ^ -8 }, { 1 + 3 * 2 ^ -8, -2 ^ 100 } })
    assert.are.same({ { 1, 1 }, { 1 + 2 ^ -6, -2 ^ 100 } }, t:tolist())
    assert.are.equal('bf16 (2, 2): 1 1 1.01563 -1.26765e+30', tostring(t))
    assert.are.equal(0x3f80, t:data()[0])
    assert.are.same({ 1 + 2 ^ -6, 1 + 2 ^ -6 },
      tensor.new('bf16', 2):fill(1 + 3 * 2 ^ -8 + 2 ^ -40):tolist())
    local f64 = tensor.new('f64', 2, 2):copy(t)
    assert.are.same(t:tolist(), f64:tolist())
    assert.are.same(t:tolist(), tensor.new('bf16', 2, 2):copy(f64):tolist())
    local f32, drawn = tensor.new('f32', 9):normal(3, 4), tensor.new('bf16', 9):normal(3, 4)
    assert.are.same(tensor.new('bf16', 9):copy(f32):tolist(), drawn:tolist())
    assert.are.equal('f32', tensor.acc_of 'bf16')
    assert.are.equal('f64', tensor.acc_of 'f64')
  end)

  it('makes views that share and keep memory', function()
    local t = tensor.zeros('f32', 4, 6)
    local row = t:view(6, 6)
    local part = row:view(2, 2, 2)
    part:fill(3)
    assert.are.same({ 0, 0, 3, 3, 3, 3 }, t:tolist()[2])
    t:close()
    row:close()
    collectgarbage()
    assert.are.same({ { 3, 3 }, { 3, 3 } }, part:tolist())
    assert.matches('ARGUMENT: use of a closed object', failure(function() return row.count end))
  end)

  it('refuses views beyond the parent', function()
    local t = tensor.new('f32', 4)
    assert.matches('SHAPE: tensor view: elements 2 to 5 of a tensor of 4 elements',
      failure(t.view, t, 2, 3))
    assert.matches('SHAPE', failure(t.view, t, -1, 3))
    assert.are.equal(0, t:view(4, 0).count)
  end)

  it('refuses unknown types and dimensions', function()
    assert.matches("type 'f23' is unknown %(did you mean 'f32'%?%)", failure(tensor.new, 'f23', 1))
    assert.matches('0 dimensions; allowed are 1 to 4', failure(tensor.new, 'f32'))
    assert.matches('5 dimensions', failure(tensor.new, 'f32', 1, 1, 1, 1, 1))
    assert.matches('dimension 1 is %-2', failure(tensor.new, 'f32', 3, -2))
    assert.matches('dimension 1 is 1.5', failure(tensor.new, 'f32', 1.5))
    assert.matches('MEMORY: tensor: too many elements', failure(tensor.new, 'f32', 2 ^ 40, 2 ^ 40))
  end)

  it('fills every type, and refuses what does not fit', function()
    assert.are.same({ 255 }, tensor.new('u8', 1):fill(255):tolist())
    assert.are.same({ -5, -5 }, tensor.new('i64', 2):fill(-5):tolist())
    assert.matches('256 does not fit into u8', failure(tensor.new('u8', 1).fill,
      tensor.new('u8', 1), 256))
  end)

  it('draws normals by key, whatever the shape and cut', function()
    local whole = tensor.new('f32', 10, 7):normal(1, 2, 0, 0.5)
    local part = tensor.new('f32', 20):normal(1, 2, 30, 0.5)
    for i = 0, 19 do
      assert.are.equal(whole:data()[30 + i], part:data()[i])
    end
    local sum, squares = 0, 0
    local many = tensor.new('f64', 20000):normal(3, 4)
    for i = 0, many.count - 1 do
      sum, squares = sum + many:data()[i], squares + many:data()[i] ^ 2
    end
    assert.is_true(math.abs(sum / many.count) < 0.03)
    assert.is_true(math.abs(squares / many.count - 1) < 0.05)
    assert.matches('SHAPE: tensor normal: tensor is i32', failure(function()
      tensor.new('i32', 1):normal(1, 1)
    end))
  end)

  it('copies between types, rounding once', function()
    local wide = tensor.of('f64', { 1 / 3, 2, 1e-300, 5 })
    local narrow = tensor.new('f32', 2, 2):copy(wide)
    local single = lib.ffi.new('float[1]', 1 / 3)
    assert.are.same({ { tonumber(single[0]), 2 }, { 0, 5 } }, narrow:tolist())
    assert.are.same({ 0, 0, 2, 0 }, tensor.zeros('f64', 4):copy(narrow, 1, 2, 1):tolist())
    assert.matches('SHAPE: tensor copy: from f64 %(4%) to f32 %(3%)', failure(function()
      tensor.new('f32', 3):copy(wide)
    end))
    assert.matches('SHAPE: tensor copy: 3 elements at 2 of from, which has 4', failure(function()
      tensor.new('f32', 3):copy(wide, 3, 0, 2)
    end))
  end)

  it('reuses buffers', function()
    local first = tensor.new('f32', 4, 6)
    assert.are.equal(first, tensor.reuse(first, 'f32', 4, 6))
    local smaller = tensor.reuse(first, 'f32', 3, 6)
    assert.are.equal(first:data(), smaller:data())
    assert.are.equal(first:data(), tensor.reuse(smaller, 'f32', 24):data())
    assert.are_not.equal(first:data(), tensor.reuse(smaller, 'f32', 25):data())
    assert.are_not.equal(first:data(), tensor.reuse(first, 'f64', 4, 6):data())
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- Devices: what holds on every machine, and the engine on a GPU where there is one.

local device = require 'neap.engine.device'
local ops = require 'neap.engine.ops'
local tensor = require 'neap.engine.tensor'

describe('device', function()
  after_each(function() device.use('cpu', 0) end)

  it('is the CPU at first', function()
    assert.is_true(tensor.new('f32', 4).on_host)
    assert.is_true(#device.facts() >= 1)
  end)

  it('says what is missing where no GPU can be used', function()
    if device.count() > 0 then return end
    local ok, failure = pcall(device.use, 'cuda', 0)
    assert.is_false(ok)
    assert.equals('ABSENT', failure.code)
    assert.truthy(failure.message:find('device=cpu', 1, true))
    assert.is_true(tensor.new('f32', 4).on_host)
  end)

  it('takes host tensors of every type', function()
    local host = tensor.new_host('f32', 2, 3):fill(2)
    assert.same({ { 2, 2, 2 }, { 2, 2, 2 } }, host:tolist())
    assert.is_true(host:host() == host)
  end)

  it('computes on a GPU what the CPU computes', function()
    if device.count() == 0 then return end
    local function product()
      local x, w = tensor.new('f32', 37, 65):normal(1, 1), tensor.new('f32', 65, 33):normal(1, 2)
      local y = ops.linear(x, w, tensor.new('f32', 37, 33))
      return y:view(0, 37 * 33):tolist(), ops.sum_squares(y)
    end
    local expected, squares = product()
    device.use('cuda', 0)
    assert.is_false(tensor.new('f32', 4).on_host)
    assert.is_true(tensor.new('i32', 4).on_host)
    local got, on_gpu = product()
    for i, value in ipairs(expected) do assert.near(value, got[i], 1e-4) end
    assert.near(1, on_gpu / squares, 1e-6)
    local ok, failure = pcall(tensor.new, 'f64', 3)
    assert.is_false(ok)
    assert.equals('ABSENT', failure.code)
  end)
end)

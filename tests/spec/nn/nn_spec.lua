-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local nn = require 'neap.nn'
local gradients = dofile(lib.home .. '/tests/gradients.lua')
local small_model = dofile(lib.home .. '/tests/small_model.lua')

local random, dot = gradients.random, gradients.dot

local function parameters_of(options)
  options = options or {}
  local parameters = nn.Parameters.new { dtype = 'f64', seed = 3, exact = options.exact }
  parameters.total = options.total
  return parameters
end

--- Input, parameters, and what a module's backward says of them.
local function check_module(parameters, module, x, width, tolerance)
  parameters:allocate()
  local dy = random(x:dim(0), width)
  local function loss() return dot(module:forward(x), dy) end
  loss()
  parameters:zero_grad()
  local checked = { { x, module:backward(dy) } }
  for _, param in ipairs(parameters.list) do
    checked[#checked + 1] = { param.value, param.grad }
  end
  gradients.check(loss, checked, tolerance)
end

local ATTENTION = { hidden = 8, heads = 4, kv_heads = 2, sequence = 5, base = 50 }

describe('nn', function()
  for _, exact in ipairs { false, true } do
    local mode = exact and ' (exact)' or ''
    local options = { exact = exact, total = 10 }
    local tolerance = exact and 1e-5 or 1e-6

    it('Linear' .. mode, function()
      local parameters = parameters_of(options)
      check_module(parameters, nn.Linear.new(parameters, 'w', 6, 3), random(10, 6), 3, tolerance)
    end)

    it('RMSNorm' .. mode, function()
      local parameters = parameters_of(options)
      check_module(parameters, nn.RMSNorm.new(parameters, 'gain', 6), random(10, 6), 6, tolerance)
    end)

    it('Attention' .. mode, function()
      local parameters = parameters_of(options)
      check_module(parameters, nn.Attention.new(parameters, 'attention', ATTENTION), random(10, 8),
        8, tolerance)
    end)

    it('a whole model, from ids to loss' .. mode, function()
      local parameters = parameters_of(options)
      local model = small_model(parameters, 5)
      parameters:allocate()
      local ids, targets = gradients.random_ids(10, 11), gradients.random_ids(10, 11)
      local function loss() return model.forward(ids, targets) end
      assert.is_true(math.abs(loss() - math.log(11)) < 2)
      parameters:zero_grad()
      model.backward()
      for _, param in ipairs(parameters.list) do
        gradients.check(loss, { { param.value, param.grad } }, 10 * tolerance)
      end
    end)
  end

  it('reuses its buffers, also for smaller batches', function()
    local parameters = parameters_of()
    local linear = nn.Linear.new(parameters, 'w', 6, 3)
    parameters:allocate()
    local first = linear:forward(random(10, 6)):data()
    assert.are.equal(first, linear:forward(random(10, 6)):data())
    assert.are.equal(first, linear:forward(random(4, 6)):data())
    assert.are.same({ 4, 3 }, { linear.output:dims() })
  end)
end)

describe('nn.Parameters', function()
  local function three(seed)
    local parameters = nn.Parameters.new { dtype = 'f32', seed = seed }
    parameters:declare('gain', { 5 }, { value = 1 })
    parameters:declare('w', { 3, 4 }, { scale = 0.5 })
    parameters:declare('u', { 3, 4 }, { scale = 0.5 })
    return parameters:allocate()
  end

  it('are views of one tensor, matrices first', function()
    local parameters = three(1)
    assert.are.equal(0, parameters:get('w').offset)
    assert.are.equal(32, parameters.decayed)
    assert.are.equal(32, parameters:get('gain').offset)
    assert.are.equal(48, parameters.values.count)
    parameters:get('gain').grad:fill(3)
    assert.are.equal(3, parameters.gradients:data()[32])
    parameters:zero_grad()
    assert.are.equal(0, parameters.gradients:data()[32])
  end)

  it('start from values that depend on seed and name alone', function()
    local a, b = three(1), three(1)
    assert.are.same(a.values:tolist(), b.values:tolist())
    assert.are_not.same(a.values:tolist(), three(2).values:tolist())
    assert.are_not.same(a:get('w').value:tolist(), a:get('u').value:tolist())
    assert.are.same({ 1, 1, 1, 1, 1 }, a:get('gain').value:tolist())
    local alone = nn.Parameters.new { dtype = 'f32', seed = 1 }
    alone:declare('u', { 3, 4 }, { scale = 0.5 })
    assert.are.same(a:get('u').value:tolist(), alone:allocate():get('u').value:tolist())
  end)

  it('refuse what makes no sense', function()
    local parameters = three(1)
    for text, call in pairs {
      ["no 'gian' %(did you mean 'gain'%?%)"] = function() parameters:get('gian') end,
      ["'v' is declared after allocate"] = function() parameters:declare('v', { 1 }, {}) end,
      ["unknown option 'sede'"] = function() nn.Parameters.new { sede = 1 } end,
    } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.matches(text, err.message)
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- An optimizer, rates and a loss of a user's, against ours.

local lib = require 'neap.base.lib'
local nn = require 'neap.nn'
local optim = require 'neap.nn.optimizer'
local ops = require 'neap.engine.ops'
local tensor = require 'neap.engine.tensor'
local trainer = require 'neap.train.trainer'
local gradients = dofile(lib.home .. '/tests/gradients.lua')
local small_model = dofile(lib.home .. '/tests/small_model.lua')

local ROWS, VOCABULARY = 12, 11
local exp = math.exp

--- AdamW as its paper has it.
local function adamw(range)
  local b1, b2, grad, param, m, v = 0.9, 0.95, range.grad, range.param, range.m, range.v
  for i = 0, range.count - 1 do
    local g = range.scale * grad[i]
    m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g * g
    local step = m[i] / (1 - b1 ^ range.step) / (math.sqrt(v[i] / (1 - b2 ^ range.step)) + 1e-8)
    param[i] = param[i] - range.rate * (step + range.decay * param[i])
  end
end

local function cross_entropy(logits, target, gradient, count)
  local sum = 0
  for i = 0, count - 1 do sum = sum + exp(logits[i]) end
  for i = 0, count - 1 do gradient[i] = exp(logits[i]) / sum - (i == target and 1 or 0) end
  return math.log(sum) - logits[target]
end

--- The parameters of the small model after a few steps.
local function trained(optimizer_of, dtype)
  local parameters = nn.Parameters.new { dtype = dtype or 'f64', seed = 3 }
  parameters.total = ROWS
  local model = small_model(parameters, 6)
  parameters:allocate()
  local optimizer = optimizer_of(parameters)
  for step = 1, 4 do
    model.forward(gradients.random_ids(ROWS, VOCABULARY):fill(step),
      gradients.random_ids(ROWS, VOCABULARY):fill(step + 1))
    parameters:zero_grad()
    model.backward()
    optimizer:step()
  end
  return parameters.values:tolist()
end

local GIVEN = { rate = 0.01, warmup = 2, steps = 4, clip = 0.05 }

local function with(more)
  local all = {}
  for name, value in pairs(GIVEN) do all[name] = value end
  for name, value in pairs(more) do all[name] = value end
  return all
end

local function ours(parameters) return optim.AdamW.new(parameters, GIVEN) end

local function failure(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe('what recipes bring along', function()
  it('a rule for updates, which can be AdamW', function()
    for dtype, most in pairs { f64 = 1e-12, f32 = 1e-4 } do
      local own = trained(function(parameters)
        return nn.OwnOptimizer.new(parameters, with { update = adamw })
      end, dtype)
      for i, value in ipairs(trained(ours, dtype)) do
        assert.is_true(math.abs(value - own[i]) < most, value .. ' and ' .. own[i])
      end
    end
  end)

  it('rates by step', function()
    local asked = {}
    local own = trained(function(parameters)
      return optim.AdamW.new(parameters, with { rate = function(step)
        asked[step] = true
        return optim.cosine(step, 0.01, 2, 4, 0.1)
      end })
    end)
    assert.are.same(trained(ours), own)
    assert.are.same({ true, true, true, true }, asked)
    for _, rate in ipairs { 'fast', 0 / 0 } do
      assert.matches('the rate of step 1 is .*; it must be a finite number',
        failure(trained, function(parameters)
          return optim.AdamW.new(parameters, with { rate = function() return rate end })
        end))
    end
  end)

  it('a loss, which can be cross-entropy, and whose gradient is what it says', function()
    local parameters = nn.Parameters.new { dtype = 'f64' }
    parameters.total = 2 * ROWS -- half of the tokens are elsewhere
    local logits, targets = gradients.random(ROWS, VOCABULARY),
      gradients.random_ids(ROWS, VOCABULARY)
    targets:data()[3] = -1
    local wanted, grad = tensor.new('f64', ROWS), tensor.new('f64', ROWS, VOCABULARY)
    ops.cross_entropy(logits, targets, 1 / parameters.total, wanted, grad)
    local loss = nn.OwnLoss.new(parameters, cross_entropy)
    local copy = tensor.new('f64', ROWS, VOCABULARY):copy(logits)
    local mean, sum = loss:forward(copy, targets), 0
    for i = 0, ROWS - 1 do sum = sum + wanted:data()[i] end
    assert.is_true(math.abs(mean - sum / parameters.total) < 1e-14)
    for i = 0, grad.count - 1 do
      assert.is_true(math.abs(grad:data()[i] - loss:backward():data()[i]) < 1e-14)
    end
    local narrow = nn.OwnLoss.new({ dtype = 'bf16', total = 2 * ROWS }, cross_entropy)
    local f32 = tensor.new('f32', ROWS, VOCABULARY)
    for i = 0, f32.count - 1 do f32:data()[i] = logits:data()[i] end
    assert.is_true(math.abs(narrow:forward(f32, targets) - mean) < 1e-6)
    assert.are.equal('bf16', narrow:backward().dtype)
  end)

  it('only what they can be', function()
    local parameters = nn.Parameters.new { dtype = 'f64' }
    parameters.total = ROWS
    assert.matches('update is a string; it must be a function',
      failure(nn.OwnOptimizer.new, parameters, { update = 'lion' }))
    local loss = nn.OwnLoss.new(parameters, function() end)
    assert.matches('loss: the function returned a nil; it must be a number',
      failure(loss.forward, loss, gradients.random(ROWS, 3), gradients.random_ids(ROWS, 3)))
    for _, name in ipairs { 'rate', 'update', 'loss' } do
      local comm = { duplicate = function() end }
      assert.matches(('trainer: %s is a table; it must be a function'):format(name),
        failure(trainer.open, { job = { comm = comm }, params = { layers = 1 }, text = {},
          [name] = {} }))
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local nn = require 'neap.nn'
local optim = require 'neap.nn.optimizer'
local tensor = require 'neap.engine.tensor'
local gradients = dofile(lib.home .. '/tests/gradients.lua')

--- Two matrices and a vector, with random values and gradients.
local function model(options)
  local parameters = nn.Parameters.new(options or { dtype = 'f64', seed = 5 })
  parameters:declare('gain', { 7 }, { value = 1 })
  parameters:declare('a', { 3, 5 }, { scale = 1 })
  parameters:declare('b', { 4, 4 }, { scale = 0.1 })
  return parameters:allocate()
end

local function randomise(parameters)
  for _, param in ipairs(parameters.list) do
    param.grad:copy(gradients.random(param.count))
  end
end

--- AdamW as its paper tells it, one number at a time.
local function reference(state, grad, t, o, decay)
  state.m = o.beta1 * state.m + (1 - o.beta1) * grad
  state.v = o.beta2 * state.v + (1 - o.beta2) * grad ^ 2
  local m, v = state.m / (1 - o.beta1 ^ t), state.v / (1 - o.beta2 ^ t)
  state.x = state.x - o.rate * (m / (math.sqrt(v) + o.eps) + decay * state.x)
end

local function follow(parameters, optimizer, o, steps)
  local states = {}
  for _, param in ipairs(parameters.list) do
    for i = 0, param.count - 1 do
      states[#states + 1] = { param = param, i = i, x = param.value:data()[i], m = 0, v = 0 }
    end
  end
  for t = 1, steps do
    randomise(parameters)
    local squares = 0
    for _, s in ipairs(states) do squares = squares + s.param.grad:data()[s.i] ^ 2 end
    local norm = optimizer:step()
    assert.is_true(math.abs(norm - math.sqrt(squares)) < 1e-7 * norm)
    local scale = o.clip > 0 and math.min(1, o.clip / norm) or 1
    for _, s in ipairs(states) do
      reference(s, s.param.grad:data()[s.i] * scale, t, o, s.param.decay and o.decay or 0)
    end
  end
  local worst = 0
  for _, s in ipairs(states) do
    worst = math.max(worst, math.abs(s.x - s.param.value:data()[s.i]))
  end
  return worst
end

--- Losses, norms and parameters after some steps on so many ranks.
local function train(ranks, mode)
  local path = os.tmpname()
  local status = launcher.run_ranks(ranks, lib.home .. '/tests/spec/ranks/optimizer.lua',
    { mode, path })
  assert.are.equal(0, status)
  local numbers = {}
  for line in io.lines(path) do
    for number in line:gmatch '%S+' do numbers[#numbers + 1] = number end
  end
  os.remove(path)
  return numbers
end

describe('optim', function()
  local o = { rate = 0.01, beta1 = 0.8, beta2 = 0.9, eps = 1e-6, decay = 0.3, clip = 2 }

  it('follows AdamW: clipped, with decay on matrices only', function()
    local parameters = model()
    assert.is_true(follow(parameters, optim.AdamW.new(parameters, o), o, 5) < 1e-12)
  end)

  it('does so in single precision and without clipping', function()
    local parameters = model { dtype = 'f32', seed = 5 }
    local options = setmetatable({ clip = 0 }, { __index = o })
    local given = {}
    for k, v in pairs(o) do given[k] = v end
    given.clip = 0
    assert.is_true(follow(parameters, optim.AdamW.new(parameters, given), options, 5) < 1e-6)
  end)

  it('keeps masters of bf16 parameters in f32', function()
    local narrow = model { dtype = 'bf16', seed = 5 }
    local wide = model { dtype = 'f32', seed = 5 }
    local first, second = optim.AdamW.new(narrow, o), optim.AdamW.new(wide, o)
    assert.are.equal('f32', narrow.gradients.dtype)
    for _ = 1, 5 do
      randomise(wide)
      narrow.gradients:copy(wide.gradients)
      assert.are.equal(second:step(), first:step())
    end
    assert.are.same(tensor.new('bf16', wide.values.count):copy(wide.values):tolist(),
      narrow.values:tolist())
    local ok, err = pcall(optim.AdamW.new, narrow, o)
    assert.is_false(ok)
    assert.matches('the masters of bf16 values have been taken before', err.message)
  end)

  it('does so from exact gradients', function()
    local parameters = model { dtype = 'f32', seed = 5, exact = true }
    assert.are.equal('f64', parameters.gradients.dtype)
    assert.is_true(follow(parameters, optim.AdamW.new(parameters, o), o, 5) < 1e-6)
  end)

  it('gives the same bits on any number of ranks with exact gradients', function()
    local alone = train(1, 'exact')
    assert.is_true(#alone > 400)
    for _, ranks in ipairs { 2, 3, 4, 6 } do
      assert.are.same(alone, train(ranks, 'exact'))
    end
  end)

  it('gives nearly the same numbers on any number of ranks without', function()
    local alone, exact = train(1, 'plain'), train(1, 'exact')
    for _, other in ipairs { train(3, 'plain'), train(4, 'plain'), exact } do
      for i, number in ipairs(alone) do
        assert.is_true(math.abs(tonumber(number) - tonumber(other[i])) < 1e-4)
      end
    end
    assert.are.same(train(4, 'plain'), train(4, 'plain'))
  end)

  it('warms up, then follows a cosine', function()
    assert.are.equal(0.25, optim.cosine(1, 1, 4, 100))
    assert.are.equal(1, optim.cosine(4, 1, 4, 100))
    assert.is_true(math.abs(optim.cosine(52, 1, 4, 100, 0.1) - 0.55) < 1e-12)
    assert.is_true(math.abs(optim.cosine(100, 1, 4, 100, 0.1) - 0.1) < 1e-12)
    assert.is_true(math.abs(optim.cosine(500, 1, 4, 100, 0.1) - 0.1) < 1e-12)
    assert.are.equal(2, optim.cosine(7, 2, 0, math.huge))
  end)

  it('stops at a norm that is not finite, changing nothing', function()
    local parameters = model()
    local optimizer = optim.AdamW.new(parameters, o)
    local before = parameters.values:tolist()
    parameters.gradients:data()[3] = 1 / 0
    local ok, err = pcall(optimizer.step, optimizer)
    assert.is_false(ok)
    assert.matches('the gradient norm of step 1 is inf', err.message)
    assert.are.same(before, parameters.values:tolist())
  end)

  it('refuses options it does not know', function()
    local ok, err = pcall(optim.AdamW.new, model(), { ratte = 1 })
    assert.is_false(ok)
    assert.matches("unknown option 'ratte' %(did you mean 'rate'%?%)", err.message)
    ok, err = pcall(optim.AdamW.new, model(), { shards = { [0] = {} } })
    assert.is_false(ok)
    assert.matches('shards has an element 0', err.message)
  end)
end)

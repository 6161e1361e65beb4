-- SPDX-License-Identifier: Apache-2.0

--- The simple modules: Embedding, Linear, RMSNorm.

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'

local layers = {}

---- Embedding: ids I32 (T) -> (T, H)

local Embedding = {}
Embedding.__index = Embedding
layers.Embedding = Embedding

function Embedding.new(parameters, name, vocabulary, hidden, scale)
  return setmetatable({
    parameters = parameters,
    hidden = hidden,
    table = parameters:declare(name, { vocabulary, hidden }, { scale = scale or 1 }),
  }, Embedding)
end

function Embedding:forward(ids)
  self.ids = ids
  self.output = tensor.reuse(self.output, self.parameters.dtype, ids.count, self.hidden)
  return ops.embedding(ids, self.table.value, self.output)
end

--- Ids have no gradient: returns nothing.
function Embedding:backward(dy)
  self.parameters:add_rows(self.table, self.ids, dy)
end

---- Linear: (T, K) -> (T, N), without bias

local Linear = {}
Linear.__index = Linear
layers.Linear = Linear

--- scale: standard deviation of the initial weights; default 1 / sqrt(inputs). dtype: of the
-- output, by default that of the parameters; what tensor.acc_of says of it gives logits.
function Linear.new(parameters, name, inputs, outputs, scale, dtype)
  return setmetatable({
    parameters = parameters,
    dtype = dtype or parameters.dtype,
    inputs = inputs,
    outputs = outputs,
    weight = parameters:declare(name, { inputs, outputs },
      { scale = scale or 1 / math.sqrt(inputs) }),
  }, Linear)
end

function Linear:forward(x)
  self.input = x
  self.output = tensor.reuse(self.output, self.dtype, x:dim(0), self.outputs)
  return ops.linear(x, self.weight.value, self.output)
end

function Linear:backward(dy)
  self.parameters:add_product(self.weight, self.input, dy)
  self.grad_input = tensor.reuse(self.grad_input, self.parameters.dtype, dy:dim(0), self.inputs)
  return ops.linear_input_grad(dy, self.weight.value, self.grad_input)
end

---- RMSNorm: (T, H) -> (T, H)

local RMSNorm = {}
RMSNorm.__index = RMSNorm
layers.RMSNorm = RMSNorm

function RMSNorm.new(parameters, name, hidden, eps)
  return setmetatable({
    parameters = parameters,
    hidden = hidden,
    eps = eps or 1e-5,
    gain = parameters:declare(name, { hidden }, { value = 1 }),
  }, RMSNorm)
end

function RMSNorm:forward(x)
  local dtype, rows = self.parameters.dtype, x:dim(0)
  self.input = x
  self.output = tensor.reuse(self.output, dtype, rows, self.hidden)
  self.rstd = tensor.reuse(self.rstd, tensor.acc_of(dtype), rows)
  return ops.rmsnorm(x, self.gain.value, self.eps, self.output, self.rstd)
end

function RMSNorm:backward(dy)
  local exact, dtype = self.parameters.exact, self.parameters.dtype
  self.grad_input = tensor.reuse(self.grad_input, dtype, dy:dim(0), self.hidden)
  if exact then
    self.terms = tensor.reuse(self.terms, tensor.acc_of(dtype), dy:dim(0), self.hidden)
    self.parameters:add_columns(self.gain,
      ops.rmsnorm_gain_terms(self.input, self.rstd, dy, self.terms))
  end
  return ops.rmsnorm_grad(self.input, self.gain.value, self.rstd, dy, self.grad_input,
    not exact and self.gain.grad or nil)
end

return layers

-- SPDX-License-Identifier: Apache-2.0

--- The simple modules: Embedding, Linear, RMSNorm.
-- room of a module that has one: where its backward puts what it makes; by default the module
-- itself, but layers whose backwards follow each other share one (nn/block.lua). Of a fleeting
-- Linear so is its output, which no backward needs.

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
  local self = setmetatable({
    parameters = parameters,
    dtype = dtype or parameters.dtype,
    inputs = inputs,
    outputs = outputs,
    weight = parameters:declare(name, { inputs, outputs },
      { scale = scale or 1 / math.sqrt(inputs) }),
  }, Linear)
  self.room = self
  return self
end

function Linear:forward(x)
  local into = self.fleeting and self.room or self
  self.input = x
  into.output = tensor.reuse(into.output, self.dtype, x:dim(0), self.outputs)
  return ops.linear(x, self.weight.value, into.output)
end

function Linear:backward(dy)
  local room = self.room
  self.parameters:add_product(self.weight, self.input, dy)
  room.grad_input = tensor.reuse(room.grad_input, self.parameters.dtype, dy:dim(0), self.inputs)
  return ops.linear_input_grad(dy, self.weight.value, room.grad_input)
end

---- RMSNorm: (T, H) -> (T, H)

local RMSNorm = {}
RMSNorm.__index = RMSNorm
layers.RMSNorm = RMSNorm

function RMSNorm.new(parameters, name, hidden, eps)
  local self = setmetatable({
    parameters = parameters,
    hidden = hidden,
    eps = eps or 1e-5,
    gain = parameters:declare(name, { hidden }, { value = 1 }),
  }, RMSNorm)
  self.room = self
  return self
end

function RMSNorm:forward(x)
  local dtype, rows = self.parameters.dtype, x:dim(0)
  self.input = x
  self.output = tensor.reuse(self.output, dtype, rows, self.hidden)
  self.rstd = tensor.reuse(self.rstd, tensor.acc_of(dtype), rows)
  return ops.rmsnorm(x, self.gain.value, self.eps, self.output, self.rstd)
end

function RMSNorm:backward(dy)
  local exact, dtype, room = self.parameters.exact, self.parameters.dtype, self.room
  room.grad_input = tensor.reuse(room.grad_input, dtype, dy:dim(0), self.hidden)
  if exact then
    room.terms = tensor.reuse(room.terms, tensor.acc_of(dtype), dy:dim(0), self.hidden)
    self.parameters:add_columns(self.gain,
      ops.rmsnorm_gain_terms(self.input, self.rstd, dy, room.terms))
  end
  return ops.rmsnorm_grad(self.input, self.gain.value, self.rstd, dy, room.grad_input,
    not exact and self.gain.grad or nil)
end

return layers

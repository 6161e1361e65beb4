-- SPDX-License-Identifier: Apache-2.0

--- The loss: cross-entropy in nats, averaged over the tokens of all ranks.

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local exact = require 'neap.engine.exact'

local CrossEntropy = {}
CrossEntropy.__index = CrossEntropy

function CrossEntropy.new(parameters)
  return setmetatable({ parameters = parameters }, CrossEntropy)
end

--- logits (T, V) of the type that tensor.acc_of tells, targets I32 (T); a target below 0 adds no
-- loss, but counts as a token. Returns the mean over parameters.total tokens of all ranks, the same
-- on every rank, summed exactly. Collective. The logits are overwritten by their gradient where
-- that is of their type.
function CrossEntropy:forward(logits, targets)
  local parameters = self.parameters
  self.loss = tensor.reuse(self.loss, logits.dtype, targets.count)
  self.grad_input = logits
  if logits.dtype ~= parameters.dtype then
    self.logits_grad = tensor.reuse(self.logits_grad, parameters.dtype, logits:dims())
    self.grad_input = self.logits_grad
  end
  ops.cross_entropy(logits, targets, 1 / parameters.total, self.loss, self.grad_input)
  return exact.sum(parameters.comm, self.loss, parameters.total) / parameters.total
end

--- The gradient of the logits; forward has made it already.
function CrossEntropy:backward()
  return self.grad_input
end

return CrossEntropy

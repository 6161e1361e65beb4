-- SPDX-License-Identifier: Apache-2.0

--- A loss of one's own: a function in Lua of one token's logits, in CrossEntropy's place.
--
--   local half_square = OwnLoss.new(parameters, function(logits, target, gradient, count)
--     local sum = 0
--     for i = 0, count - 1 do
--       local miss = logits[i] - (i == target and 1 or 0)
--       gradient[i], sum = miss, sum + miss * miss / 2
--     end
--     return sum
--   end)
--
-- logits[count], float or double, is read; gradient[count], of the same type, is written: of what
-- the function returns, by each logit. Losses are averaged over the tokens of all ranks, exactly,
-- and gradients divided by as many. On a GPU logits are copied to the host and gradients back.

local lib = require 'neap.base.lib'
local exact = require 'neap.engine.exact'
local tensor = require 'neap.engine.tensor'

local ffi = lib.ffi

local OwnLoss = {}
OwnLoss.__index = OwnLoss

local ROWS = { f32 = ffi.typeof 'float[?]', f64 = ffi.typeof 'double[?]' }

--- f: the function; a token whose target is below 0 is not asked for, and has loss and gradient 0.
-- : Parameters, function -> OwnLoss
function OwnLoss.new(parameters, f)
  return setmetatable({ parameters = parameters, f = f }, OwnLoss)
end

--- One token: its gradient takes the place of its logits.
local function token(self, row, logits, target, count)
  ffi.copy(row, logits, ffi.sizeof(row))
  if target < 0 then
    ffi.fill(logits, ffi.sizeof(row))
    return 0
  end
  local loss = self.f(row, target, logits, count)
  if type(loss) ~= 'number' then
    lib.raise('ARGUMENT', ('loss: the function returned a %s; it must be a number'):format(
      type(loss)), 2)
  end
  local total = self.parameters.total
  for i = 0, count - 1 do logits[i] = logits[i] / total end
  return loss
end

--- As CrossEntropy's forward.
-- : Tensor, Tensor -> number
function OwnLoss:forward(logits, targets)
  local parameters, columns = self.parameters, logits:dim(1)
  local host, wanted = logits:host(), targets:host()
  local losses = tensor.new_host(logits.dtype, targets.count)
  local row, values, ids = ROWS[logits.dtype](columns), host:data(), wanted:data()
  for t = 0, targets.count - 1 do
    losses:data()[t] = token(self, row, values + t * columns, ids[t], columns)
  end
  if host ~= logits then logits:copy(host) end
  if wanted ~= targets then wanted:close() end
  self.grad_input = logits
  if logits.dtype ~= parameters.dtype then
    self.rounded = tensor.reuse(self.rounded, parameters.dtype, logits:dims())
    self.grad_input = self.rounded:copy(logits)
  end
  self.loss = tensor.reuse(self.loss, logits.dtype, targets.count):copy(losses)
  return exact.sum(parameters.comm, self.loss, parameters.total) / parameters.total
end

--- The gradient of the logits; forward has made it already.
-- : -> Tensor
function OwnLoss:backward()
  return self.grad_input
end

return OwnLoss

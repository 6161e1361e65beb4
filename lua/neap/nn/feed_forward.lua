-- SPDX-License-Identifier: Apache-2.0

--- A feed-forward network without experts, as dense layers and shared experts have: (T, H) to
-- (T, H), (silu(x Wg) * (x Wu)) W2 (Shazeer 2020). w1 (H, 2F) has gate's columns first, then up's.

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local timeline = require 'neap.engine.timeline'
local Linear = require('neap.nn.layers').Linear

local FeedForward = {}
FeedForward.__index = FeedForward

--- ffn: F. scale: standard deviation of the initial w2; default 1 / sqrt(F).
function FeedForward.new(parameters, name, hidden, ffn, scale)
  return setmetatable({
    dtype = parameters.dtype,
    ffn = ffn,
    w1 = Linear.new(parameters, name .. '.w1', hidden, 2 * ffn),
    w2 = Linear.new(parameters, name .. '.w2', ffn, hidden, scale),
  }, FeedForward)
end

function FeedForward:forward(x)
  local began = timeline.begin 'ffn'
  local gate_up = self.w1:forward(x)
  self.activation = tensor.reuse(self.activation, self.dtype, x:dim(0), self.ffn)
  local y = self.w2:forward(ops.swiglu(gate_up, self.activation))
  timeline.finish('ffn', began)
  return y
end

--- The gradient of gate and up takes the place of both.
function FeedForward:backward(dy)
  local began = timeline.begin 'ffn backward'
  local gate_up = self.w1.output
  local dx = self.w1:backward(ops.swiglu_grad(gate_up, self.w2:backward(dy), gate_up))
  timeline.finish('ffn backward', began)
  return dx
end

return FeedForward

--- One layer of a transformer: x + attention(norm(x)), then + experts(norm(that)). The experts are
-- not called from here: their phases are scheduled by the model (nn/transformer.lua).

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local timeline = require 'neap.engine.timeline'
local Attention = require 'neap.nn.attention'
local RMSNorm = require('neap.nn.layers').RMSNorm

local Block = {}
Block.__index = Block

--- options: those of Attention, eps, experts, router_f32.
function Block.new(parameters, name, options)
  local hidden = options.hidden
  return setmetatable({
    dtype = parameters.dtype,
    hidden = hidden,
    norm1 = RMSNorm.new(parameters, name .. '.norm1', hidden, options.eps),
    attention = Attention.new(parameters, name .. '.attention', options),
    norm2 = RMSNorm.new(parameters, name .. '.norm2', hidden, options.eps),
    router = parameters:declare(name .. '.router', { hidden, options.experts },
      { scale = 1 / math.sqrt(hidden), full = options.router_f32 }),
  }, Block)
end

--- The first half; returns what router and experts get. x: by default that of the last time.
function Block:forward_attention(x)
  local began = timeline.begin 'attention'
  x = x or self.input
  self.input = x
  self.middle = tensor.reuse(self.middle, self.dtype, x:dim(0), self.hidden)
  ops.add(x, self.attention:forward(self.norm1:forward(x)), self.middle)
  local normed = self.norm2:forward(self.middle)
  timeline.finish('attention', began)
  return normed
end

local function free(owner, field)
  local old = owner[field]
  if not old then return end
  owner[field] = nil
  local base = old.base
  old:close()
  if base then base:close() end
end

--- Frees what forward_attention makes, until it is called again; not its input, nor the block's
-- output.
function Block:release()
  local attention = self.attention
  free(self, 'middle')
  free(attention, 'attended')
  for _, module in ipairs { self.norm1, self.norm2, attention.qkv, attention.out } do
    free(module, 'output')
  end
end

--- A buffer for what the experts compute.
function Block:output_buffer()
  self.output = tensor.reuse(self.output, self.dtype, self.middle:dims())
  return self.output
end

--- Adds the experts' output to the residual stream; returns the block's output.
function Block:finish()
  return ops.add(self.middle, self.output, self.output)
end

--- A buffer for the gradient of the experts' input.
function Block:grad_buffer()
  self.dnormed = tensor.reuse(self.dnormed, self.dtype, self.middle:dims())
  return self.dnormed
end

--- From the gradients of the output and, in grad_buffer, of the experts' input to that of the
-- input.
function Block:backward(dy)
  local began = timeline.begin 'attention backward'
  self.grad_input = tensor.reuse(self.grad_input, self.dtype, dy:dims())
  local dmiddle = ops.add(dy, self.norm2:backward(self.dnormed), self.grad_input)
  local dx = self.norm1:backward(self.attention:backward(dmiddle))
  ops.add(dmiddle, dx, self.grad_input)
  timeline.finish('attention backward', began)
  return self.grad_input
end

return Block

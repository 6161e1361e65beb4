-- SPDX-License-Identifier: Apache-2.0

--- One layer of a transformer: x + attention(norm(x)), then + experts(norm(that)), of which some
-- may be shared, that is, compute every token, where it is. The others are not called from here:
-- their phases are scheduled by the model (nn/transformer.lua).

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local timeline = require 'neap.engine.timeline'
local Attention = require 'neap.nn.attention'
local FeedForward = require 'neap.nn.feed_forward'
local RMSNorm = require('neap.nn.layers').RMSNorm

local Block = {}
Block.__index = Block

--- Rooms for the backwards of layers, which take turns (layers.lua): one of each module, and two
-- for the gradient of a layer's input, which the layer before reads while it makes its own.
function Block.rooms()
  return { norm1 = {}, norm2 = {}, attention = {}, qkv = {}, out = {}, inputs = {}, turn = 1 }
end

--- The fields of a layer before its experts. options: those of Attention, eps, rooms.
function Block.attention_half(parameters, name, options)
  local hidden, rooms = options.hidden, options.rooms
  local self = {
    dtype = parameters.dtype,
    hidden = hidden,
    rooms = rooms,
    norm1 = RMSNorm.new(parameters, name .. '.norm1', hidden, options.eps),
    attention = Attention.new(parameters, name .. '.attention', options),
    norm2 = RMSNorm.new(parameters, name .. '.norm2', hidden, options.eps),
  }
  local attention = self.attention
  self.norm1.room, self.norm2.room, attention.room = rooms.norm1, rooms.norm2, rooms.attention
  attention.qkv.room, attention.out.room, attention.out.fleeting = rooms.qkv, rooms.out, true
  return self
end

--- options: those of attention_half, experts, router_f32, shared_ffn (F of all shared experts
-- together, which are one network then; 0: none), ffn_scale (FeedForward's scale by F).
function Block.new(parameters, name, options)
  local self, hidden = Block.attention_half(parameters, name, options), options.hidden
  self.router = parameters:declare(name .. '.router', { hidden, options.experts },
    { scale = 1 / math.sqrt(hidden), full = options.router_f32 })
  if options.shared_ffn > 0 then
    self.shared = FeedForward.new(parameters, name .. '.shared', hidden, options.shared_ffn,
      options.ffn_scale(options.shared_ffn))
  end
  return setmetatable(self, Block)
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

--- Frees what a feed-forward network makes, until its forward is called again.
function Block.release_ffn(ffn)
  free(ffn, 'activation')
  free(ffn.w1, 'output')
  free(ffn.w2, 'output')
end

--- Frees what forward_attention and forward_shared make, until they are called again; not their
-- input, nor the block's output.
function Block:release()
  if self.shared then Block.release_ffn(self.shared) end
  local attention = self.attention
  free(self, 'middle')
  free(attention, 'attended')
  for _, module in ipairs { self.norm1, self.norm2, attention.qkv } do
    free(module, 'output')
  end
end

--- Computes the shared experts, where there are any. normed: what the other experts get.
function Block:forward_shared(normed)
  if self.shared then self.shared_output = self.shared:forward(normed) end
end

--- From the gradient of the output to that of what the shared experts got, for backward.
function Block:backward_shared(dy)
  if self.shared then self.shared_grad = self.shared:backward(dy) end
end

--- A buffer for what the experts compute.
function Block:output_buffer()
  self.output = tensor.reuse(self.output, self.dtype, self.middle:dims())
  return self.output
end

--- Adds the experts' output to the residual stream; returns the block's output.
function Block:finish()
  if self.shared then ops.add(self.output, self.shared_output, self.output) end
  return ops.add(self.middle, self.output, self.output)
end

--- A buffer for the gradient of the experts' input.
function Block:grad_buffer()
  local rooms = self.rooms
  rooms.dnormed = tensor.reuse(rooms.dnormed, self.dtype, self.middle:dims())
  self.dnormed = rooms.dnormed
  return self.dnormed
end

--- From the gradients of the output and, in grad_buffer, of the experts' input to that of the
-- input, which stays until the backward after the next.
function Block:backward(dy)
  local began = timeline.begin 'attention backward'
  local rooms = self.rooms
  rooms.turn = 3 - rooms.turn
  local dmiddle = tensor.reuse(rooms.inputs[rooms.turn], self.dtype, dy:dims())
  rooms.inputs[rooms.turn] = dmiddle
  if self.shared then ops.add(self.dnormed, self.shared_grad, self.dnormed) end
  ops.add(dy, self.norm2:backward(self.dnormed), dmiddle)
  local dx = self.norm1:backward(self.attention:backward(dmiddle))
  ops.add(dmiddle, dx, dmiddle)
  timeline.finish('attention backward', began)
  return dmiddle
end

return Block

-- SPDX-License-Identifier: Apache-2.0

--- A layer of a transformer without experts, as the first ones of some models are: the halves of a
-- Block, a feed-forward network in the experts' place. It needs no schedule: nothing travels.

local ops = require 'neap.engine.ops'
local Block = require 'neap.nn.block'
local FeedForward = require 'neap.nn.feed_forward'

local DenseBlock = setmetatable({}, { __index = Block })
DenseBlock.__index = DenseBlock

--- options: those of Attention, eps, dense_ffn (F), ffn_scale (FeedForward's scale by F);
-- recompute: activations are freed after a forward, and computed again in the backward.
function DenseBlock.new(parameters, name, options)
  local self = setmetatable(Block.attention_half(parameters, name, options), DenseBlock)
  self.ffn = FeedForward.new(parameters, name .. '.ffn', options.hidden, options.dense_ffn,
    options.ffn_scale(options.dense_ffn))
  self.recompute = options.recompute
  return self
end

local function compute(self, x)
  return self.ffn:forward(self:forward_attention(x))
end

function DenseBlock:release()
  Block.release(self)
  Block.release_ffn(self.ffn)
end

function DenseBlock:forward(x)
  local y = compute(self, x)
  ops.add(self.middle, y, self:output_buffer())
  if self.recompute then self:release() end
  return self.output
end

function DenseBlock:backward(dy)
  if self.recompute then compute(self) end
  self.dnormed = self.ffn:backward(dy)
  local dx = Block.backward(self, dy)
  if self.recompute then self:release() end
  return dx
end

return DenseBlock

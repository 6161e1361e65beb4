-- SPDX-License-Identifier: Apache-2.0

--- Causal attention with rotary positions: (T, H) -> (T, H); T is a multiple of the sequence.

local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local Linear = require('neap.nn.layers').Linear
local lib = require 'neap.base.lib'

local Attention = {}
Attention.__index = Attention

--- options: hidden, heads, kv_heads (default heads), sequence, base (of the rotary frequencies,
-- 10000), output_scale (standard deviation of the initial output weights).
function Attention.new(parameters, name, options)
  local heads, kv_heads = options.heads, options.kv_heads or options.heads
  local width = options.hidden / heads
  if width % 2 ~= 0 or heads % kv_heads ~= 0 then
    lib.raise('ARGUMENT', ('attention: hidden %d, %d heads, %d kv heads; hidden / heads must be '
      .. 'even and kv heads must divide heads'):format(options.hidden, heads, kv_heads), 2)
  end
  local self = setmetatable({
    parameters = parameters,
    hidden = options.hidden,
    heads = heads,
    kv_heads = kv_heads,
    sequence = options.sequence,
    qkv = Linear.new(parameters, name .. '.qkv', options.hidden, (heads + 2 * kv_heads) * width),
    out = Linear.new(parameters, name .. '.out', options.hidden, options.hidden,
      options.output_scale),
    table = ops.rotary_table(options.base or 10000,
      tensor.new(tensor.acc_of(parameters.dtype), options.sequence, width)),
  }, Attention)
  self.room = self
  return self
end

function Attention:forward(x)
  local dtype, rows = self.parameters.dtype, x:dim(0)
  self.attended = tensor.reuse(self.attended, dtype, rows, self.hidden)
  self.lse = tensor.reuse(self.lse, tensor.acc_of(dtype), rows, self.heads)
  local qkv = self.qkv:forward(x)
  ops.rotary(qkv, self.heads + self.kv_heads, self.table)
  ops.attention(qkv, self.heads, self.kv_heads, self.sequence, self.attended, self.lse)
  return self.out:forward(self.attended)
end

function Attention:backward(dy)
  local qkv = self.qkv.output
  local dattended = self.out:backward(dy)
  local room = self.room
  room.dqkv = tensor.reuse(room.dqkv, self.parameters.dtype, qkv:dims())
  ops.attention_grad(qkv, self.attended, self.lse, dattended, self.heads, self.kv_heads,
    self.sequence, room.dqkv)
  ops.rotary(room.dqkv, self.heads + self.kv_heads, self.table, true)
  return self.qkv:backward(room.dqkv)
end

return Attention

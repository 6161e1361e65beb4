-- SPDX-License-Identifier: Apache-2.0

--- Modules in the style of Torch, with forward and backward written out over neap.ops.
--
--   local parameters = nn.Parameters.new { dtype = 'f32', seed = 1 }
--   local embed = nn.Embedding.new(parameters, 'embed', 256, 64)
--   local head  = nn.Linear.new(parameters, 'head', 64, 256)
--   parameters:allocate()
--   local logits = head:forward(embed:forward(ids))
--   … embed:backward(head:backward(dlogits))
--
-- A module's forward returns its output, backward takes the gradient of that output, adds to the
-- gradients of its parameters and returns the gradient of its input. Both are buffers of the
-- module, overwritten by its next call; inputs must stay as they are until backward. Activations
-- are matrices (T, H), T being the tokens of this rank.
-- nn.Transformer is a whole model, of nn.Blocks with experts; a module per file in lua/neap/nn.

local layers = require 'neap.nn.layers'

--- The modules by name.
return {
  Parameters = require 'neap.nn.parameters',
  Embedding = layers.Embedding,
  Linear = layers.Linear,
  RMSNorm = layers.RMSNorm,
  Attention = require 'neap.nn.attention',
  FeedForward = require 'neap.nn.feed_forward',
  Block = require 'neap.nn.block',
  DenseBlock = require 'neap.nn.dense_block',
  CrossEntropy = require 'neap.nn.cross_entropy',
  OwnLoss = require 'neap.nn.own_loss',
  OwnOptimizer = require 'neap.nn.own_optimizer',
  Transformer = require 'neap.nn.transformer',
}

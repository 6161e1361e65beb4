-- SPDX-License-Identifier: Apache-2.0

--- The order of a layer's work in a training step, forward and backward. The engine runs it on real
-- layers (nn/transformer.lua), the simulator on the model of a cluster (simulate/step_program.lua).
--
-- A model has, by layer from 0: blocks (nn/block.lua), experts (engine/moe.lua); and pipeline
-- (nn/pipeline.lua), session, schedule, and plan(step, layer, load), which returns a split.

local timeline = require 'neap.engine.timeline'

local layer_step = {}

--- A forward begins.
function layer_step.begin(model)
  model.pipeline:begin()
  if model.schedule.unshard_ahead > 0 then model.pipeline:start(0) end
end

--- x: of the layer before. direction: 1, or -1 where layers are computed again before their
-- backward. Returns the layer's output.
function layer_step.forward_layer(model, l, x, step, direction)
  local block, experts, pipeline = model.blocks[l], model.experts[l], model.pipeline
  direction = direction or 1
  timeline.layer(l)
  pipeline:prefetch('attention', l, direction)
  local normed = block:forward_attention(x)
  experts:route(normed, block.router.value)
  local split = model:plan(step, l, experts:load())
  experts:dispatch(normed, model.session:layout(l), split)
  pipeline:change(l) -- now, so that slots that are kept need not wait for it with their tokens
  if model.session.record then model.session:record(step, l, experts:load()) end
  pipeline:prefetch('dispatch', l, direction)
  block:forward_shared(normed) -- while tokens are on their way
  local weights, arriving = pipeline:weights(l)
  experts:forward(weights, block:output_buffer(), arriving)
  pipeline:wait_weights(l)
  local y = block:finish()
  if model.schedule.recompute then block:release() end
  return y
end

--- dy: gradient of the layer's output. Returns that of its input.
function layer_step.backward_layer(model, l, dy)
  local block, experts, pipeline = model.blocks[l], model.experts[l], model.pipeline
  timeline.layer(l)
  pipeline:prefetch('attention', l, -1)
  experts:backward_dispatch(dy)
  pipeline:prefetch('dispatch', l, -1)
  pipeline:release()
  if model.schedule.recompute then block:forward_shared(block:forward_attention()) end
  block:backward_shared(dy)
  local weights, arriving = pipeline:weights(l)
  experts:backward(block.norm2.output, block.router.value, weights, pipeline:gradients(l),
    block:grad_buffer(), block.router.grad, arriving)
  pipeline:wait_weights(l)
  pipeline:reduce(l, experts:slot_tokens())
  local dx = block:backward(dy)
  if model.schedule.recompute then block:release() end
  return dx
end

return layer_step

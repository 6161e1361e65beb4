-- SPDX-License-Identifier: Apache-2.0

--- How large the model is that a training's parameters describe (trainer.params), and what a step
-- of it computes.

local Transformer = require 'neap.nn.transformer'

local model_size = {}

--- p: values of trainer.params, perhaps without the newer ones, perhaps with a vocabulary. Returns
-- a table: layers (with experts), dense_layers, shared_ffn and dense_ffn (F of the networks that
-- compute every token), dense (parameters outside experts), parameters (all), used (those of a
-- token), flops (of a step of all ranks: forward and backward, without what is computed again; an
-- addition and a multiplication are two).
function model_size.of(p)
  local vocabulary, ffn, sum = rawget(p, 'vocabulary') or 256, {}, 0
  for e = 1, p.experts do
    ffn[e] = p.ffn[#p.ffn > 1 and e or 1]
    sum = sum + ffn[e]
  end
  local options = { top_k = p.top_k, shared_experts = rawget(p, 'shared_experts') or 0,
    dense_ffn = rawget(p, 'dense_ffn') or 0 }
  local shared_ffn, dense_ffn = Transformer.dense_widths(options, ffn)
  local dense_layers = rawget(p, 'dense_layers') or 0
  local layers, hidden = p.layers - dense_layers, p.hidden
  local qkv = (p.heads + 2 * p.kv_heads) * hidden / p.heads
  local products = p.layers * hidden * (qkv + hidden) + layers * hidden * p.experts
    + 3 * hidden * (layers * shared_ffn + dense_layers * dense_ffn) + vocabulary * hidden
  local dense = products + vocabulary * hidden + (2 * p.layers + 1) * hidden
  local experts = layers * 3 * hidden * sum
  local chosen = experts * p.top_k / p.experts
  local tokens = p.batch * p.sequence
  return { layers = layers, dense_layers = dense_layers, shared_ffn = shared_ffn,
    dense_ffn = dense_ffn, dense = dense, parameters = dense + experts, used = dense + chosen,
    -- of attention, scores and sums over the half of a sequence that is before a token
    flops = 6 * tokens * (products + chosen + p.layers * p.sequence * hidden) }
end

return model_size

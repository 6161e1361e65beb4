-- SPDX-License-Identifier: Apache-2.0

--- Parameters of a model that go beyond what every MoE model has, of trainer.params: what its
-- router does, and what computes every token.

local lib = require 'neap.base.lib'
local params = require 'neap.base.params'

local model_params = {}

model_params.specs = {
  shared_experts = { default = 0, min = 0, integer = true,
    doc = 'experts of a layer that every token is computed by, beside its top_k others' },
  dense_layers = { default = 0, min = 0, integer = true,
    doc = 'the first so many layers have no experts, but one network for all tokens' },
  dense_ffn = { default = 0, min = 0, integer = true,
    doc = 'hidden size of that network; 0: of the experts together that a token uses' },
  scores = { default = 'softmax', choices = { 'softmax', 'sigmoid' },
    doc = "an expert's score: softmax over a token's logits, or the sigmoid of its own" },
  bias_rate = { default = 0, min = 0, max = 1e6,
    doc = 'after a step, an expert with too few tokens gets so much more bias, one with too many '
      .. 'less; 0: biases stay (DeepSeek-V3: 0.001)' },
  renormalise = { default = true, doc = "the weights of a token's experts add up to 1" },
  router_f32 = { default = false,
    doc = "of bf16: the router's parameters and products are f32" },
}

--- Those of p that there are, as nn.Transformer takes them.
function model_params.of(p)
  local fields = {}
  for name in pairs(model_params.specs) do fields[name] = rawget(p, name) end
  return fields
end

--- Those that differ from their defaults, in words: ' scores=sigmoid bias_rate=0.001'.
function model_params.text(p)
  local words = {}
  for _, name in ipairs(lib.sorted_keys(model_params.specs)) do
    local value = rawget(p, name)
    if value ~= nil and value ~= model_params.specs[name].default then
      words[#words + 1] = (' %s=%s'):format(name, params.show(value))
    end
  end
  return table.concat(words)
end

return model_params

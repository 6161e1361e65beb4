--- Parameters of a model beyond its sizes, of which trainer.params are: what the router does.

local model_params = {}

model_params.specs = {
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

return model_params

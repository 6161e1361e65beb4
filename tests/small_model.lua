-- SPDX-License-Identifier: Apache-2.0

--- A dense model for specs: embedding, a block of attention, normalisation, head, loss; vocabulary
-- 11, hidden 8: dofile(lib.home .. '/tests/small_model.lua').

local nn = require 'neap.nn'
local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'

return function(parameters, sequence)
  local model = { parameters = parameters }
  local embed = nn.Embedding.new(parameters, 'embed', 11, 8)
  local norm = nn.RMSNorm.new(parameters, 'norm', 8)
  local attention = nn.Attention.new(parameters, 'attention',
    { hidden = 8, heads = 4, kv_heads = 2, sequence = sequence, base = 50 })
  local last = nn.RMSNorm.new(parameters, 'last', 8)
  local head = nn.Linear.new(parameters, 'head', 8, 11)
  local criterion = nn.CrossEntropy.new(parameters)
  local sum

  function model.forward(ids, targets)
    local x = embed:forward(ids)
    sum = tensor.reuse(sum, parameters.dtype, x:dims())
    ops.add(x, attention:forward(norm:forward(x)), sum)
    return criterion:forward(head:forward(last:forward(sum)), targets)
  end

  function model.backward()
    local dx = last:backward(head:backward(criterion:backward()))
    ops.add(dx, norm:backward(attention:backward(dx)), dx)
    embed:backward(dx)
  end
  return model
end

-- SPDX-License-Identifier: Apache-2.0

--- What the work of a layer costs on a machine: seconds of the operations of a step, bytes of its
-- exchanges. A product (m, k) x (k, n) takes 2mkn / (flops x gemm) seconds, times 1 + tile / size
-- for each of its sizes; elementwise work takes its bytes / memory; a piece takes launch at least.
-- A backward is two products for each of the forward's, and twice its elementwise work.

local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'

local ffi = lib.ffi

local op_cost = {}

-- How often a rank's activations (tokens x hidden) pass through memory, forward.
local PASSES = {
  attention = 72, -- a normalisation, rotary, projections' outputs, residual
  route = 24,     -- a normalisation, probabilities
  permute = 5,    -- of every routed token: gather and write, at either end
  finish = 3,     -- residual
  expert = 8,     -- hidden values of the expert (tokens x ffn): gate, up, their product
  loss = 6,       -- of the logits
  embed = 2,      -- read and written
}
local OPTIMIZER_BYTES = 40 -- of a parameter: AdamW in fp32, gradient and norms
local SCRAP = 1e-9         -- tokens fewer than this are none
local BLOCK = 128          -- numbers that share a scale in FP8

--- Spans whose seconds a machine's spans may scale; those with a backward also as 'NAME backward'.
-- unshard and reduce are what ranks themselves do for these exchanges (unshard: by default
-- nothing).
op_cost.spans = { 'embed', 'embed backward', 'attention', 'attention backward', 'route',
  'route backward', 'dispatch', 'finish', 'finish backward', 'expert', 'expert backward', 'ffn',
  'ffn backward', 'head', 'head backward', 'loss', 'optimizer', 'unshard', 'reduce' }

local Costs = {}
Costs.__index = Costs

--- tensor: ranks that share the attention of their sequences (tensor parallelism); they hold
-- 1 / tensor of its heads and see tensor times the tokens. elementwise: how often their code goes
-- through memory, compared with the passes above (fused kernels: less than 1).
function op_cost.of(machine, model, tensor, elementwise)
  return setmetatable({ machine = machine, model = model, tensor = tensor or 1,
    elementwise = (elementwise or 1) * (machine.elementwise or 1) }, Costs)
end

--- How many times the seconds below a span takes on this machine, as it was measured.
function Costs:factor(title)
  local spans = self.machine.spans
  return spans and spans[title] or 1
end

--- Forward and backward seconds of a span.
local function both(self, name, forward, backward)
  return forward * self:factor(name), backward * self:factor(name .. ' backward')
end

--- Seconds of a product.
function Costs:product(m, k, n)
  local tile = self.machine.tile
  return 2 * m * k * n / (self.machine.flops * self.machine.gemm)
    * (1 + tile / m) * (1 + tile / k) * (1 + tile / n)
end

--- Seconds of elementwise work.
function Costs:pass(bytes)
  return self.elementwise * bytes / self.machine.memory
end

--- The attention half of a layer for so many tokens of the rank: forward, backward.
function Costs:attention(tokens)
  local m, share = self.model, self.tensor
  local h, all = m.hidden, tokens * share
  local kv = h * m.kv_heads / m.heads
  local products = self:product(all, h, (h + 2 * kv) / share) + self:product(all, h / share, h)
  local core = 2 * all * m.sequence * (h / share) / (self.machine.flops * self.machine.attention)
  local rest = self:pass(PASSES.attention * tokens * h * m.bytes) + 8 * self.machine.launch
  return both(self, 'attention', products + core + rest, 2 * products + 2.5 * core + 2 * rest)
end

--- The router: forward, backward.
function Costs:route(tokens)
  local m = self.model
  local seconds = self:pass(PASSES.route * tokens * m.hidden * m.bytes) + 3 * self.machine.launch
  return both(self, 'route', seconds, 2 * seconds)
end

--- Permutation before the experts: forward, and backward, which is done with the router's.
function Costs:permute(tokens)
  local m = self.model
  local bytes = PASSES.permute * m.top_k * tokens * m.hidden * m.bytes
  local seconds = self:pass(bytes) + 3 * self.machine.launch
  return seconds * self:factor 'dispatch', 2 * seconds * self:factor 'route backward'
end

--- Combination of the experts' answers: forward, backward.
function Costs:finish(tokens)
  local m = self.model
  local bytes = (PASSES.finish + PASSES.permute * m.top_k) * tokens * m.hidden * m.bytes
  local seconds = self:pass(bytes) + 3 * self.machine.launch
  return both(self, 'finish', seconds, 2 * seconds)
end

--- An expert's forward: seconds of a number of tokens are first x (1 or 0) + each x tokens.
function Costs:expert_line(expert)
  local m, machine = self.model, self.machine
  local h, f, tile = m.hidden, models.ffn(m, expert), machine.tile
  local each = 6 * h * f / (machine.flops * machine.gemm) * (1 + tile / h) * (1 + tile / f)
  local passes = self:pass((PASSES.expert * f + PASSES.permute * h) * m.bytes)
  return each * tile + 4 * machine.launch, each + passes
end

--- Ranks that share processors: one that has less to do leaves its time to the others.
local function even_out(seconds, ranks)
  local sum = 0
  for r = 0, ranks - 1 do sum = sum + seconds[r] end
  for r = 0, ranks - 1 do seconds[r] = sum / ranks end
  return seconds
end

--- Seconds of the experts' forward on every rank, scaled: out[ranks] = scale x sum over slots from
-- to upto - 1 of each rank (default: all). slot_tokens[slots], int64_t.
function Costs:experts(layout, slot_tokens, scale, out, from, upto)
  local t, expert_of = layout.topology, layout:array()
  if not self.first then
    self.first, self.each = ffi.new('double[?]', t.experts), ffi.new('double[?]', t.experts)
    for e = 0, t.experts - 1 do self.first[e], self.each[e] = self:expert_line(e) end
  end
  local first, each, first_slot = self.first, self.each, t.first_slot
  for rank = 0, t.ranks - 1 do
    local seconds, begin, stop = 0, first_slot[rank], first_slot[rank + 1]
    if upto then begin, stop = begin + from, begin + upto end
    for slot = begin, stop - 1 do
      local tokens, e = tonumber(slot_tokens[slot]) * scale, expert_of[slot]
      if tokens > SCRAP then seconds = seconds + first[e] + each[e] * tokens end
    end
    out[rank] = seconds
  end
  if self.machine.shared then return even_out(out, t.ranks) end
  return out
end

--- A feed-forward network of hidden size f for so many tokens of the rank: forward, backward.
local function network(self, tokens, f)
  local m, all, width = self.model, tokens * self.tensor, f / self.tensor
  local into, out = self:product(all, m.hidden, 2 * width), self:product(all, width, m.hidden)
  local rest = self:pass(PASSES.expert * all * width * m.bytes) + 4 * self.machine.launch
  return both(self, 'ffn', into + out + rest, 2 * (into + out + rest))
end

--- A layer's shared experts, of a model that has some: as network.
function Costs:shared(tokens)
  local f = models.dense_widths(self.model)
  if f == 0 then return nil end
  return network(self, tokens, f)
end

--- The network of a layer without experts, with its normalisation and residual: as network.
function Costs:dense_network(tokens)
  local _, f = models.dense_widths(self.model)
  local forward, backward = network(self, tokens, f)
  local rest = self:pass(PASSES.finish * tokens * self.model.hidden * self.model.bytes)
  local more, more_back = both(self, 'ffn', rest, 2 * rest)
  return forward + more, backward + more_back
end

--- Last normalisation and head; loss; backward of both.
function Costs:head(tokens)
  local m = self.model
  local columns = m.vocabulary / self.tensor
  local product = self:product(tokens * self.tensor, m.hidden, columns)
  local forward, backward = both(self, 'head', product, 2 * product)
  return forward, self:pass(PASSES.loss * tokens * m.vocabulary * 4) * self:factor 'loss', backward
end

--- Embedding: forward, backward.
function Costs:embed(tokens)
  local m = self.model
  local seconds = self:pass(PASSES.embed * tokens * m.hidden * m.bytes) + self.machine.launch
  return both(self, 'embed', seconds, seconds)
end

--- Gradients that have arrived are added up: bytes of them.
function Costs:sum(bytes)
  return self:pass(bytes) * self:factor 'reduce'
end

--- What a rank does itself for an unshard of bytes of its slots: nothing, unless its machine says
-- how many times they pass through memory.
function Costs:unpack(bytes)
  local spans = self.machine.spans
  return spans and spans.unshard and self:pass(bytes) * spans.unshard or 0
end

--- Parameters: of an expert; of a layer without its experts; of one that has none; of embedding and
-- head.
function Costs:expert_parameters(expert)
  return 3 * self.model.hidden * models.ffn(self.model, expert)
end

local function attention_parameters(m)
  return m.hidden * m.hidden * (2 + 2 * m.kv_heads / m.heads)
end

function Costs:dense_parameters()
  local m = self.model
  return attention_parameters(m) + m.hidden * m.experts + 3 * m.hidden * (models.dense_widths(m))
end

function Costs:dense_layer_parameters()
  local _, f = models.dense_widths(self.model)
  return attention_parameters(self.model) + 3 * self.model.hidden * f
end

function Costs:outer_parameters()
  return 2 * self.model.hidden * self.model.vocabulary
end

function Costs:total_parameters()
  local m, layer = self.model, self:dense_parameters()
  local sum = self:outer_parameters() + m.dense_layers * self:dense_layer_parameters()
  for e = 0, m.experts - 1 do layer = layer + self:expert_parameters(e) end
  return sum + models.moe_layers(m) * layer
end

--- One step of the optimizer, its state being cut over all ranks.
function Costs:optimizer(ranks)
  return self:pass(OPTIMIZER_BYTES * self:total_parameters() / ranks) * self:factor 'optimizer'
end

--- Bytes of a number that travels, as a share of those of one of the model's: in FP8 (how: 'fp8')
-- one byte, and a scale for BLOCK numbers, of which the last may be fewer. count: of a row.
function Costs:travel_share(how, count)
  if how ~= 'fp8' then return 1 end
  return math.ceil(count / BLOCK) * (BLOCK + 4) / count / self.model.bytes
end

--- Seconds in which what has come in FP8 is written as the model's numbers, bytes of them.
function Costs:restore(how, bytes, share)
  return how == 'fp8' and self:pass(bytes * (1 + share)) or 0
end

function Costs:token_bytes()
  return self.model.hidden * self.model.bytes
end

return op_cost

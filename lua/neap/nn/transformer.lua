-- SPDX-License-Identifier: Apache-2.0

--- A Mixture-of-Experts language model: embedding, perhaps some layers without experts, blocks of
-- attention and experts, a last normalisation, an untied head, cross-entropy. It also schedules the
-- experts' phases and transfers, in the way that the option schedule says (nn/schedule.lua).
--
--   local model = Transformer.new { comm =, topology =, session =, layers = 2, hidden = 64, … }
--   local loss = model:forward(ids, targets, step)
--   model:backward()

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local layouts = require 'neap.engine.layout'
local moe = require 'neap.engine.moe'
local shards = require 'neap.engine.shards'
local tensor = require 'neap.engine.tensor'
local timeline = require 'neap.engine.timeline'
local Block = require 'neap.nn.block'
local CrossEntropy = require 'neap.nn.cross_entropy'
local DenseBlock = require 'neap.nn.dense_block'
local Parameters = require 'neap.nn.parameters'
local Pipeline = require 'neap.nn.pipeline'
local OwnLoss = require 'neap.nn.own_loss'
local layers = require 'neap.nn.layers'
local layer_step = require 'neap.nn.layer_step'
local schedules = require 'neap.nn.schedule'

local Transformer = {}
Transformer.__index = Transformer

local SPEC = {
  comm = { needed = true }, topology = { needed = true }, session = { needed = true },
  vocabulary = { default = 256 }, layers = { default = 2 }, hidden = { default = 64 },
  heads = { default = 4 }, kv_heads = { type = 'number' }, top_k = { default = 2 },
  ffn = { default = 128, type = 'number table' }, sequence = { default = 64 },
  batch = { default = 1 }, total_batch = { type = 'number' }, base = { default = 10000 },
  eps = { default = 1e-5 }, renormalise = { default = true }, aux_loss = { default = 0 },
  scores = { default = 'softmax', choices = { 'softmax', 'sigmoid' } },
  router_f32 = { default = false }, bias_rate = { default = 0, min = 0 },
  dtype = { default = 'f32' }, exact = { default = false }, seed = { default = 0 },
  schedule = { default = 'laer', type = 'string table' },
  group = { default = 'all', type = 'string number' }, balanced = { default = false },
  shared_experts = { default = 0, min = 0, integer = true },
  dense_layers = { default = 0, min = 0, integer = true },
  dense_ffn = { default = 0, min = 0, integer = true },
  unshard = { default = 'dtype' }, dispatch = { default = 'dtype' }, loss = { type = 'function' },
}

--- F of every expert, from index 1.
local function widths(ffn, experts)
  local list = {}
  for e = 1, experts do list[e] = type(ffn) == 'table' and ffn[e] or ffn end
  if type(ffn) == 'table' and #ffn ~= experts then
    lib.raise('ARGUMENT', ('transformer: ffn has %d sizes; there are %d experts'):format(
      #ffn, experts), 3)
  end
  return list
end

--- F of a layer's shared experts together, and of a layer without experts. o: top_k, shared_experts
-- and dense_ffn. ffn: F of every expert, a list.
function Transformer.dense_widths(o, ffn)
  local sum = 0
  for _, width in ipairs(ffn) do sum = sum + width / #ffn end
  local mean = math.ceil(sum)
  return o.shared_experts * mean,
    o.dense_ffn > 0 and o.dense_ffn or (o.top_k + o.shared_experts) * mean
end

--- Collective. comm: of all ranks. topology: ranks, slots and experts. session: who answers
-- layout(layer) and split(step, layer, load), perhaps also record and plan_now; layers with experts
-- from 0.
-- Sizes, with defaults above: vocabulary, layers, hidden, heads, kv_heads (heads), top_k, ffn (a
-- number, or a list with one for each expert), sequence, batch (sequences of this rank, perhaps 0),
-- total_batch (of all ranks, the same everywhere; by default batch on every rank), base (of the
-- rotary frequencies), eps (of the normalisations). renormalise: the weights of a token's experts
-- add up to 1. aux_loss: coefficient of the load-balance loss. scores, router_f32: of the router
-- (engine/moe.lua). bias_rate: how far adapt_bias moves the experts' biases. dtype, exact, seed: as
-- in Parameters. schedule: of transfers, a name or a table (nn/schedule.lua). group: of shards,
-- 'all', 'node', a number of ranks, or 'resident', for which the topology has homes. balanced:
-- every expert gets as many tokens (engine/moe.lua). shared_experts: so many more, each as wide as
-- the mean of the others, compute every token. dense_layers: the first so many of the layers have
-- no experts, but a feed-forward network of size dense_ffn (0: of the experts that a token uses).
-- unshard, dispatch: how experts travel (engine/shards.lua), and tokens to them (engine/moe.lua).
-- loss: a function in cross-entropy's place (nn/own_loss.lua).
function Transformer.new(given)
  local o = options.check(given, SPEC, 'transformer')
  o.kv_heads, o.schedule = o.kv_heads or o.heads, schedules.resolve(o.schedule)
  if o.dense_layers >= o.layers then
    lib.raise('ARGUMENT', ('transformer: dense_layers is %d; it must be less than the %d layers')
      :format(o.dense_layers, o.layers), 2)
  end
  local self = setmetatable({ options = o, session = o.session, schedule = o.schedule, blocks = {},
    dense_blocks = {}, experts = {}, stores = {}, layers = o.layers - o.dense_layers }, Transformer)
  self.ffn = widths(o.ffn, o.topology.experts)
  self.shared_ffn, self.dense_ffn = Transformer.dense_widths(o, self.ffn)
  self.comm = { tokens = o.comm:duplicate(), shards = o.comm:duplicate(),
    reduces = o.comm:duplicate() }
  self.tokens = o.batch * o.sequence
  self.parameters = Parameters.new { comm = o.comm, dtype = o.dtype, exact = o.exact,
    seed = o.seed }
  self.parameters.total = (o.total_batch or o.batch * o.comm:size()) * o.sequence
  self:declare(o)
  self.parameters:allocate()
  self:open_experts(o, self.ffn)
  return self
end

function Transformer:declare(o)
  local p = self.parameters
  local block = setmetatable({ experts = o.topology.experts,
    output_scale = 1 / math.sqrt(2 * o.layers * o.hidden), shared_ffn = self.shared_ffn,
    dense_ffn = self.dense_ffn, recompute = o.schedule.recompute, rooms = Block.rooms(),
    ffn_scale = function(ffn) return 1 / math.sqrt(2 * o.layers * ffn) end }, { __index = o })
  self.embed = layers.Embedding.new(p, 'embed', o.vocabulary, o.hidden)
  for i = 1, o.dense_layers do
    self.dense_blocks[i] = DenseBlock.new(p, 'layer' .. i - 1, block)
  end
  for l = 0, self.layers - 1 do self.blocks[l] = Block.new(p, self:layer_name(l), block) end
  self.norm = layers.RMSNorm.new(p, 'norm', o.hidden, o.eps)
  self.head = layers.Linear.new(p, 'head', o.hidden, o.vocabulary, nil, tensor.acc_of(o.dtype))
  self.criterion = o.loss and OwnLoss.new(p, o.loss) or CrossEntropy.new(p)
end

--- What the names of a layer with experts begin with; 'layer0', unless dense ones come before.
function Transformer:layer_name(l)
  return ('layer%d'):format(self.options.dense_layers + l)
end

--- Draws the parameters of a layer's experts: W1 (H, 2F), then W2 (F, H).
local function draw(store, layer, o, ffn)
  for e, width in ipairs(ffn) do
    local name = ('%s.expert%d'):format(layer, e - 1)
    local first = 2 * o.hidden * width
    store:normal(e - 1, 0, first, o.seed, Parameters.stream_of(name .. '.w1'),
      1 / math.sqrt(o.hidden))
    store:normal(e - 1, first, o.hidden * width, o.seed, Parameters.stream_of(name .. '.w2'),
      1 / math.sqrt(2 * o.layers * width))
  end
  store:refresh()
end

function Transformer:open_experts(o, ffn)
  local sizes = {}
  for e, width in ipairs(ffn) do sizes[e] = 3 * o.hidden * width end
  for l = 0, self.layers - 1 do
    self.experts[l] = moe.open { comm = self.comm.tokens, topology = o.topology, hidden = o.hidden,
      top_k = o.top_k, dtype = o.dtype, renormalise = o.renormalise, exact = o.exact,
      chunks = o.schedule.chunks, hold_combine = o.schedule.hold_combine,
      recompute = o.schedule.recompute, aux_loss = o.aux_loss, ffn = ffn,
      scores = o.scores, router_f32 = o.router_f32, balanced = o.balanced, travel = o.dispatch }
    self.stores[l] = shards.open { comm = self.comm.shards, reduces = self.comm.reduces,
      topology = o.topology, dtype = o.dtype, travel = o.unshard, exact = o.exact, sizes = sizes,
      group = o.group }
    self.experts[l]:set_shards(self.stores[l])
    draw(self.stores[l], self:layer_name(l), o, ffn)
  end
  self.pipeline = Pipeline.new { stores = self.stores, schedule = o.schedule, dtype = o.dtype,
    exact = o.exact, slots = o.topology:slots_of(o.comm:rank()),
    layout = function(layer) return self.session:layout(layer) end,
    same = function(a, b) return a:changed(b) == 0 end,
    copy = function(layout, old) return (old or layouts.open(o.topology)):copy(layout) end }
end

--- Collective, between steps: how experts and tokens travel from now on, { [layer] = { unshard =,
-- dispatch = } } of 'dtype' and 'fp8'. For a model that was opened with unshard = 'either', unless
-- experts go on as they do.
function Transformer:set_travel(travels)
  self.pipeline:begin()
  for l = 0, self.layers - 1 do
    self.experts[l]:set_travel(travels[l].dispatch)
    self.stores[l]:set_travel(travels[l].unshard)
  end
end

--- What the policy says for the counts of a layer: a split.
function Transformer:plan(step, l, load)
  local session, began = self.session, timeline.begin 'plan'
  if session.plan_now then session:plan_now(step, l, load) end
  local split = session:split(step, l, load)
  timeline.finish('plan', began)
  return split
end

--- ids, targets: I32 (T), T = batch x sequence. Returns the mean loss over the tokens of all ranks
-- in nats, without the auxiliary loss. Collective.
function Transformer:forward(ids, targets, step)
  layer_step.begin(self)
  local began = timeline.begin 'embed'
  local x = self.embed:forward(ids)
  timeline.finish('embed', began)
  for _, block in ipairs(self.dense_blocks) do x = block:forward(x) end
  for l = 0, self.layers - 1 do
    x = layer_step.forward_layer(self, l, x, step)
  end
  timeline.layer(-1)
  began = timeline.begin 'head'
  local logits = self.head:forward(self.norm:forward(x))
  timeline.finish('head', began)
  began = timeline.begin 'loss'
  local loss = self.criterion:forward(logits, targets)
  timeline.finish('loss', began)
  return loss
end

--- Of the last forward: all gradients, those of dense parameters still this rank's part alone (an
-- optimizer sums them over ranks), those of experts with their owners. Collective.
function Transformer:backward()
  self.parameters:zero_grad()
  local began = timeline.begin 'head backward'
  local dx = self.norm:backward(self.head:backward(self.criterion:backward()))
  timeline.finish('head backward', began)
  for l = self.layers - 1, 0, -1 do
    dx = layer_step.backward_layer(self, l, dx)
  end
  timeline.layer(-1)
  for i = #self.dense_blocks, 1, -1 do dx = self.dense_blocks[i]:backward(dx) end
  began = timeline.begin 'embed backward'
  self.embed:backward(dx)
  timeline.finish('embed backward', began)
  self.pipeline:finish()
end

--- The sum of the layers' auxiliary losses in the last forward.
function Transformer:aux_loss()
  local sum = 0
  for l = 0, self.layers - 1 do sum = sum + self.experts[l]:aux_loss() end
  return sum
end

--- After a step: experts that had too few tokens in it, of all ranks, are chosen more easily, and
-- those that had too many less (DeepSeek-V3).
function Transformer:adapt_bias()
  local speed = self.options.bias_rate
  for l = 0, speed > 0 and self.layers - 1 or -1 do self.experts[l]:adapt_bias(speed) end
end

--- Parameters: of all, and of those that a token uses.
function Transformer:count()
  local total, used = self.parameters.values.count, self.parameters.values.count
  for l = 0, self.layers - 1 do
    local experts = self.stores[l]:count()
    total = total + experts
    used = used + experts * self.options.top_k / self.options.topology.experts
  end
  return total, used
end

--- The experts' stores, a list, as an optimizer takes them.
function Transformer:shards()
  local list = {}
  for l = 0, self.layers - 1 do list[l + 1] = self.stores[l] end
  return list
end

--- Collective. Whoever still knows the model does not keep its tensors alive: compiled code may.
function Transformer:close()
  for l = 0, self.layers - 1 do
    self.experts[l]:close()
    self.stores[l]:close()
  end
  self.comm.tokens:close()
  self.comm.shards:close()
  self.comm.reduces:close()
  self.parameters, self.pipeline, self.blocks, self.embed = nil, nil, nil, nil
  self.norm, self.head, self.criterion = nil, nil, nil
end

return Transformer

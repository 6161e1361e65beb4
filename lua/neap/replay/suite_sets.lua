-- SPDX-License-Identifier: Apache-2.0

--- What neap suite measures policies on: the workloads of the public token-imbalance benchmark
-- (engine/workloads.lua) at several numbers of experts, and traces, recorded or synthetic.
--
-- A set is { name, cluster, ranks, node_size, slots, model, steps, open() }: open gives its trace,
-- which for a workload is made once and kept in a folder. The model is what its loads are timed
-- with: layers of the shape of a known model with as many experts.

local errors = require 'neap.base.errors'
local synth_trace = require 'neap.replay.synth_trace'
local trace = require 'neap.engine.trace'
local workloads = require 'neap.engine.workloads'

local suite_sets = {}

suite_sets.CLUSTERS = { 'a100x32', 'h100x256' }
suite_sets.EXPERTS = { 8, 64, 128, 256 }
suite_sets.WARM_UP = 5

-- By the number of experts: Mixtral 8x7B, the same with experts of half the size, DeepSeek-V2-Lite,
-- Qwen3-235B, DeepSeek-V3.
local SHAPES = {
  { experts = 8, top_k = 2, hidden = 4096, ffn = 14336, heads = 32, kv_heads = 8 },
  { experts = 16, top_k = 4, hidden = 4096, ffn = 7168, heads = 32, kv_heads = 8 },
  { experts = 64, top_k = 6, hidden = 2048, ffn = 1408, heads = 16, kv_heads = 16 },
  { experts = 128, top_k = 8, hidden = 4096, ffn = 1536, heads = 64, kv_heads = 4 },
  { experts = 256, top_k = 8, hidden = 7168, ffn = 2048, heads = 128, kv_heads = 128 },
}

local LAYERS, TOKENS, SEQUENCE = 4, 8192, 4096

--- The shape whose number of experts is nearest, as a ratio.
local function shape_of(experts)
  local best
  for _, shape in ipairs(SHAPES) do
    local off = math.abs(math.log(shape.experts / experts))
    if not best or off < best.off then best = { off = off, shape = shape } end
  end
  return best.shape
end

--- The model that loads of so many experts are timed with; layers: that have loads of their own.
local function model_of(experts, slots, tokens, layers)
  local shape = shape_of(experts)
  return { hidden = shape.hidden, ffn = shape.ffn, heads = shape.heads, kv_heads = shape.kv_heads,
    top_k = math.min(shape.top_k, experts), experts = experts, slots = slots,
    layers = math.max(LAYERS, layers), tokens = tokens, sequence = math.min(SEQUENCE, tokens),
    vocabulary = 32000, micro_batches = 1 }
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

--- Twice the slots that the experts need, and at least 2.
local function slots_for(experts, ranks)
  return math.max(2, 2 * math.ceil(experts / ranks))
end

--- One workload at one size on one cluster. o: steps (with those that warm up), seed, tokens (per
-- rank), folder.
local function workload_set(name, experts, cluster, ranks, o)
  local top_k, slots = math.min(shape_of(experts).top_k, experts), slots_for(experts, ranks)
  local label = ('%s e%d n%d'):format(name, experts, ranks)
  local path = ('%s/%s-t%d-%d-seed%d.safetensors'):format(o.folder, label:gsub(' ', '-'), o.tokens,
    o.steps, o.seed)
  return {
    name = label, cluster = cluster, ranks = ranks, node_size = math.min(8, ranks), slots = slots,
    doc = workloads.DOCS[name], steps = o.steps, experts = experts,
    model = model_of(experts, slots, o.tokens, 1),
    open = function()
      if not exists(path) then
        local part = path .. '.part'
        synth_trace.write(part, { workload = name, ranks = ranks, experts = experts, top_k = top_k,
          tokens = o.tokens, steps = o.steps, layers = 1, seed = o.seed, slots = slots,
          node_size = 8 })
        assert(os.rename(part, path))
      end
      return trace.open(path)
    end,
  }
end

--- The workloads of names with so many experts on clusters (list of { name, ranks }).
function suite_sets.workloads(names, experts, clusters, o)
  local list = {}
  for _, cluster in ipairs(clusters) do
    for _, e in ipairs(experts) do
      for _, name in ipairs(names) do
        list[#list + 1] = workload_set(name, e, cluster.name, cluster.ranks, o)
      end
    end
  end
  return list
end

--- Slots per rank: of the options, else as recorded, else by a name like x_c4.csv.
local function slots_of(t, o)
  local slots = o.slots or tonumber(t.metadata.slots) or tonumber(t.path:match '_c(%d+)%.')
  if not slots then
    errors.usage('%s does not say how many slots a rank has; give --slots', t.path)
  end
  return slots
end

--- A trace on each of the clusters (names), whose machines then have the trace's ranks and nodes.
-- o: slots, node_size (nil: as recorded), steps (at most, with those that warm up).
function suite_sets.trace(path, clusters, o)
  local t, list = trace.read(path), {}
  local slots = slots_of(t, o)
  local node_size = math.min(o.node_size or tonumber(t.metadata.node_size) or 8, t.ranks)
  for i, cluster in ipairs(clusters) do
    list[i] = {
      name = path:match '([^/]*)$', cluster = cluster, ranks = t.ranks, node_size = node_size,
      slots = slots, steps = math.min(t.steps, o.steps), experts = t.experts,
      model = model_of(t.experts, slots, TOKENS, t.layers), open = function() return t end,
    }
  end
  return list
end

return suite_sets

--- neap bench moe --device=cuda: one bf16 layer on one GPU, on the shapes that reference figures
-- exist for, and, where python3 finds PyTorch, the same layer there, in turn: a sample here, a
-- sample there. Every sample comes right after dense products that take about as long, so that
-- rates, shares of the dense product and ratios compare the same heat; see ceilings.lua.

local ceilings = require 'neap.bench.moe.ceilings'
local device = require 'neap.engine.device'
local json = require 'neap.base.json'
local layer = require 'neap.bench.moe.gpu_layer'
local text_table = require 'neap.base.text_table'
local torches = require 'neap.bench.moe.torch'

local gpu = {}

--- Experts, experts per token, H, F.
local SHAPES = {
  { experts = 8, top_k = 2, hidden = 4096, ffn = 14336 },
  { experts = 16, top_k = 4, hidden = 4096, ffn = 7168 },
  { experts = 64, top_k = 6, hidden = 2048, ffn = 1408 },
  { experts = 128, top_k = 8, hidden = 2048, ffn = 768 },
}

local TOKENS = 16384

local WARM_UP = 2   -- samples
local LONG = 0.5    -- seconds that samples of forward + backward take together, at least
local MOST = 400    -- samples of layers that take no time

-- dense_tflops of a row: beside its samples; forward_share and both_share are shares of that, the
-- others of the burst. torch_…: PyTorch's, beside a dense product of its own.
local ORDER = {
  'bench', 'device', 'gpu', 'dtype', 'dense_burst_tflops', 'copy_gb_per_second', 'torch', 'rows',
  'experts', 'top_k', 'hidden', 'ffn', 'tokens', 'load', 'hottest', 'samples', 'dense_tflops',
  'forward_ms', 'both_ms', 'forward_tflops', 'both_tflops', 'forward_share', 'both_share',
  'forward_share_of_burst', 'both_share_of_burst', 'kept_bytes', 'forward_ratio', 'both_ratio',
  'torch_dense_tflops', 'torch_forward_ms', 'torch_both_ms', 'torch_forward_share',
  'torch_both_share', 'torch_kept_bytes', 'torch_variant',
}

local function shapes_of(p)
  local list = {}
  if p.shape == 'own' then
    return { { experts = p.experts, top_k = p.top_k, hidden = p.hidden, ffn = p.ffn } }, p.tokens
  end
  for _, shape in ipairs(SHAPES) do
    if p.shape == 'all' or tonumber(p.shape) == shape.experts then list[#list + 1] = shape end
  end
  return list, TOKENS
end

-- ---- rates --------------------------------------------------------------------------------------

--- TFLOP/s of a row's expert products forward, and forward + backward.
local function rates(row, forward_ms, both_ms)
  local flops = 6 * row.tokens * row.top_k * row.hidden * row.ffn
  return flops / forward_ms / 1e9, 3 * flops / both_ms / 1e9
end

--- burst: TFLOP/s.
local function rate_row(row, burst)
  row.forward_tflops, row.both_tflops = rates(row, row.forward_ms, row.both_ms)
  for _, kind in ipairs { 'forward', 'both' } do
    row[kind .. '_share'] = row[kind .. '_tflops'] / row.dense_tflops
    row[kind .. '_share_of_burst'] = row[kind .. '_tflops'] / burst
  end
end

local function add_torch(row, other)
  for name, value in pairs(other) do row['torch_' .. name] = value end
  local forward, both = rates(row, other.forward_ms, other.both_ms)
  row.torch_forward_share = forward / other.dense_tflops
  row.torch_both_share = both / other.dense_tflops
  row.forward_ratio = other.forward_ms / row.forward_ms
  row.both_ratio = other.both_ms / row.both_ms
end

-- ---- the bench ----------------------------------------------------------------------------------

--- Samples until there are repeats of each, and enough where the layer is short. torch: or nil.
local function take_samples(step, torch, repeats)
  for _ = 1, WARM_UP do step:sample() end
  step:forget()
  local count = math.min(math.max(repeats, math.ceil(LONG / step:latest())), MOST)
  for _ = 1, count do
    step:sample()
    if torch then torch:ask 'sample' end
  end
end

--- Rows of a shape, one a load.
local function measure_shape(shape, setting, dense, torch)
  local step = layer.open(shape, setting.loads, setting.tokens, dense)
  if torch then torch:ask 'prepare' end
  take_samples(step, torch, setting.repeats)
  local rows, others = step:rows(), torch and torch:ask 'rows'
  step:close()
  for i, row in ipairs(rows) do
    rate_row(row, setting.burst)
    if others then add_torch(row, others[i]) end
  end
  return rows
end

local function measure(p)
  device.use('cuda', 0)
  local shapes, tokens = shapes_of(p)
  local loads = p.load == 'both' and { 'balanced', 'skewed' } or { p.load }
  local torch = p.torch ~= 'off' and torches.open { shapes = shapes, loads = loads, tokens = tokens,
    how = p.torch, side = ceilings.SIDE }
  local dense = ceilings.dense(ceilings.SIDE)
  local setting = { repeats = p.repeats, tokens = tokens, loads = loads,
    burst = dense:burst() / 1e12 }
  local result = {
    bench = 'moe', device = 'cuda', gpu = device.describe(0), dtype = 'bf16', rows = {},
    dense_burst_tflops = setting.burst,
    copy_gb_per_second = ceilings.copy(ceilings.COPY, p.repeats) / 1e9,
  }
  for _, shape in ipairs(shapes) do
    for _, row in ipairs(measure_shape(shape, setting, dense, torch)) do
      table.insert(result.rows, row)
    end
  end
  result.torch = torch and torch.failure or p.torch
  if torch then torch:close() end
  dense:close()
  return result
end

local function show(result)
  print(('%s: dense product %.0f TFLOP/s in a burst, copy %.0f GB/s, PyTorch: %s'):format(
    result.gpu, result.dense_burst_tflops, result.copy_gb_per_second, result.torch))
  print 'TFLOP/s; dense: beside the layer, at the same heat; x: times PyTorch, measured in turn'
  local rows = {}
  local function optional(format, value) return value and format:format(value) or '-' end
  for i, r in ipairs(result.rows) do
    rows[i] = {
      ('%d, %d, %d, %d'):format(r.experts, r.top_k, r.hidden, r.ffn), r.load,
      ('%.0f'):format(r.dense_tflops),
      ('%.0f'):format(r.forward_tflops), ('%.2f'):format(r.forward_share),
      optional('%.2f', r.forward_ratio),
      ('%.0f'):format(r.both_tflops), ('%.2f'):format(r.both_share),
      ('%.2f'):format(r.both_share_of_burst), optional('%.2f', r.both_ratio),
      optional('%.2f', r.torch_both_share),
      ('%.0f'):format(r.kept_bytes / 1024),
      optional('%.0f', r.torch_kept_bytes and r.torch_kept_bytes / 1024),
    }
  end
  print(text_table.format({ 'experts, K, H, F', 'load', 'dense', 'forward', 'of dense', 'x', 'both',
    'of dense', 'of burst', 'x', 'PyTorch of dense', 'kept KiB/token', 'PyTorch' }, rows))
end

function gpu.run(p, as_json)
  local result = measure(p)
  if as_json then
    print(json.results('bench', result, ORDER))
  else
    show(result)
  end
end

return gpu

--- neap bench moe --device=cuda: one bf16 layer on one GPU, on the shapes that reference figures
-- exist for, beside a dense product and a copy in the same run and, where python3 finds PyTorch,
-- the same layer there (layer.py).

local child = require 'neap.child'
local device = require 'neap.device'
local json = require 'neap.json'
local launcher = require 'neap.launcher'
local layer = require 'neap.bench.moe.gpu_layer'
local text_table = require 'neap.table'

local gpu = {}

--- Experts, experts a token, H, F.
local SHAPES = {
  { experts = 8, top_k = 2, hidden = 4096, ffn = 14336 },
  { experts = 16, top_k = 4, hidden = 4096, ffn = 7168 },
  { experts = 64, top_k = 6, hidden = 2048, ffn = 1408 },
  { experts = 128, top_k = 8, hidden = 2048, ffn = 768 },
}

local TOKENS = 16384

local ORDER = {
  'bench', 'device', 'gpu', 'dtype', 'dense_tflops', 'copy_gb_per_second', 'torch', 'rows',
  'experts', 'top_k', 'hidden', 'ffn', 'tokens', 'load', 'imbalance', 'forward_ms', 'both_ms',
  'forward_tflops', 'both_tflops', 'forward_share', 'both_share', 'kept_bytes',
}

-- ---- PyTorch ------------------------------------------------------------------------------------

local WAIT = 1 / 50

--- Its results in the order of rows, or nil and why there are none.
local function run_torch(rows, how, repeats)
  local script = launcher.home .. '/lua/neap/bench/moe/layer.py'
  local order = json.encode { rows = rows, how = how, repeats = repeats, warm_up = layer.WARM_UP }
  local ok, program = pcall(child.open, { 'python3', script, order }, {})
  if not ok then return nil, 'no python3' end
  while not program:ended() do launcher.sleep(WAIT) end
  local stdout, stderr = program:output()
  local status = program.status
  program:close()
  if status ~= 0 then return nil, stderr:match '([^\n]*)\n*$' end
  return json.decode(stdout)
end

-- ---- the bench ----------------------------------------------------------------------------------

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

--- Adds rates and shares to a row.
local function rate_row(row, dense)
  local flops = 6 * row.tokens * row.top_k * row.hidden * row.ffn
  row.forward_tflops = flops / row.forward_ms / 1e9
  row.both_tflops = 3 * flops / row.both_ms / 1e9
  row.forward_share = row.forward_tflops * 1e12 / dense
  row.both_share = row.both_tflops * 1e12 / dense
end

local function add_torch(row, other)
  for name, value in pairs(other) do row['torch_' .. name] = value end
  row.forward_ratio = other.forward_ms / row.forward_ms
  row.both_ratio = other.both_ms / row.both_ms
end

local function measure(p)
  device.use('cuda', 0)
  local ceiling = layer.ceilings(p.repeats)
  local shapes, tokens = shapes_of(p)
  local result = {
    bench = 'moe', device = 'cuda', gpu = device.describe(0), dtype = 'bf16', rows = {},
    dense_tflops = ceiling.flops / 1e12, copy_gb_per_second = ceiling.bytes / 1e9, torch = 'off',
  }
  local loads = p.load == 'both' and { 'balanced', 'skewed' } or { p.load }
  for _, shape in ipairs(shapes) do
    for _, row in ipairs(layer.measure(shape, loads, tokens, p.repeats)) do
      rate_row(row, ceiling.flops)
      table.insert(result.rows, row)
    end
  end
  if p.torch ~= 'off' then
    local others, why = run_torch(result.rows, p.torch, p.repeats)
    result.torch = others and p.torch or why
    for i, other in ipairs(others or {}) do add_torch(result.rows[i], other) end
  end
  return result
end

local function show(result)
  print(('%s: dense product %.0f TFLOP/s, copy %.0f GB/s, PyTorch: %s'):format(result.gpu,
    result.dense_tflops, result.copy_gb_per_second, result.torch))
  local rows = {}
  for i, r in ipairs(result.rows) do
    local function ratio(value) return value and ('%.2f'):format(value) or '-' end
    rows[i] = {
      ('%d, %d, %d, %d'):format(r.experts, r.top_k, r.hidden, r.ffn), r.load,
      ('%.0f'):format(r.forward_tflops), ('%.2f'):format(r.forward_share), ratio(r.forward_ratio),
      ('%.0f'):format(r.both_tflops), ('%.2f'):format(r.both_share), ratio(r.both_ratio),
      ('%.0f'):format(r.kept_bytes / 1024),
      r.torch_kept_bytes and ('%.0f'):format(r.torch_kept_bytes / 1024) or '-',
    }
  end
  print(text_table.format({ 'experts, K, H, F', 'load', 'forward TFLOP/s', 'of dense', 'x PyTorch',
    'both TFLOP/s', 'of dense', 'x PyTorch', 'kept KiB/token', 'PyTorch' }, rows))
end

function gpu.run(p, as_json)
  local result = measure(p)
  if as_json then
    print(json.encode(result, ORDER))
  else
    show(result)
  end
end

return gpu

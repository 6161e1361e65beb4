-- SPDX-License-Identifier: Apache-2.0

--- neap bench moe --device=cuda: one bf16 layer on one GPU, on the shapes that reference figures
-- exist for, and, where python3 finds them, the same layer by PyTorch and others
-- (peers/layers.py), in turn: a sample here, a sample there. Every sample comes right after dense
-- products that take about as long, so that rates, shares of the dense product and ratios compare
-- the same heat; see ceilings.lua.

local ceilings = require 'neap.bench.moe.ceilings'
local device = require 'neap.engine.device'
local json = require 'neap.base.json'
local layer = require 'neap.bench.moe.gpu_layer'
local process = require 'neap.bench.peers.process'
local shapes = require 'neap.bench.moe.shapes'
local text_table = require 'neap.base.text_table'

local gpu = {}

local WARM_UP = 2   -- samples
local LONG = 0.5    -- seconds that samples of forward + backward take together, at least
local MOST = 400    -- samples of layers that take no time

-- dense_tflops of a row: beside its samples; forward_share and both_share are shares of that, the
-- others of the burst. torch_…, sonic_…, liger_…: a peer's, beside a dense product of its own;
-- …_ratio: its time over Neap's.
local ORDER = {
  'bench', 'device', 'gpu', 'dtype', 'dense_burst_tflops', 'copy_gb_per_second', 'torch', 'sonic',
  'liger', 'rows', 'experts', 'top_k', 'hidden', 'ffn', 'tokens', 'load', 'hottest', 'samples',
  'dense_tflops', 'forward_ms', 'both_ms', 'forward_tflops', 'both_tflops', 'forward_share',
  'both_share', 'forward_share_of_burst', 'both_share_of_burst', 'kept_bytes',
}
local PEER_FIELDS = { 'forward_ratio', 'both_ratio', 'dense_tflops', 'forward_ms', 'both_ms',
  'forward_share', 'both_share', 'kept_bytes', 'variant' }

local TITLES = { torch = 'PyTorch', sonic = 'SonicMoE', liger = 'Liger' }
for _, name in ipairs { 'torch', 'sonic', 'liger' } do
  for _, field in ipairs(PEER_FIELDS) do ORDER[#ORDER + 1] = name .. '_' .. field end
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

--- other: a row of layer.py.
local function add_peer(row, name, other)
  for field, value in pairs(other) do row[name .. '_' .. field] = value end
  local forward, both = rates(row, other.forward_ms, other.both_ms)
  row[name .. '_forward_share'] = forward / other.dense_tflops
  row[name .. '_both_share'] = both / other.dense_tflops
  row[name .. '_forward_ratio'] = other.forward_ms / row.forward_ms
  row[name .. '_both_ratio'] = other.both_ms / row.both_ms
end

-- ---- the bench ----------------------------------------------------------------------------------

--- Samples until there are repeats of each, and enough where the layer is short.
local function take_samples(step, peers, repeats)
  for _ = 1, WARM_UP do step:sample() end
  step:forget()
  local count = math.min(math.max(repeats, math.ceil(LONG / step:latest())), MOST)
  for _ = 1, count do
    step:sample()
    for _, peer in ipairs(peers) do peer.process:ask 'sample' end
  end
end

--- Rows of a shape, one a load.
local function measure_shape(shape, setting, dense, peers)
  local step = layer.open(shape, setting.loads, setting.tokens, dense)
  for _, peer in ipairs(peers) do peer.process:ask 'prepare' end
  take_samples(step, peers, setting.repeats)
  local rows = step:rows()
  step:close()
  for _, row in ipairs(rows) do rate_row(row, setting.burst) end
  for _, peer in ipairs(peers) do
    for i, other in ipairs(peer.process:ask 'rows' or {}) do add_peer(rows[i], peer.name, other) end
  end
  return rows
end

--- The peers that are asked for: { name =, how =, process = }.
local function open_peers(p, order)
  local peers = {}
  if p.torch ~= 'off' then peers[1] = { name = 'torch', how = p.torch } end
  if p.peers then
    peers[#peers + 1] = { name = 'sonic', how = 'eager' }
    peers[#peers + 1] = { name = 'liger', how = 'eager' }
  end
  for _, peer in ipairs(peers) do
    order.kind, order.how = peer.name, peer.how
    peer.process = process.open(process.LAYER, order)
  end
  return peers
end

local function measure(p)
  device.use('cuda', 0)
  local list, tokens = shapes.of(p)
  local loads = shapes.loads(p)
  local peers = open_peers(p, { shapes = list, loads = loads, tokens = tokens,
    side = ceilings.SIDE })
  local dense = ceilings.dense(ceilings.SIDE)
  local setting = { repeats = p.repeats, tokens = tokens, loads = loads,
    burst = dense:burst() / 1e12 }
  local result = {
    bench = 'moe', device = 'cuda', gpu = device.describe(0), dtype = 'bf16', rows = {},
    dense_burst_tflops = setting.burst,
    copy_gb_per_second = ceilings.copy(ceilings.COPY, p.repeats) / 1e9,
  }
  for _, shape in ipairs(list) do
    for _, row in ipairs(measure_shape(shape, setting, dense, peers)) do
      table.insert(result.rows, row)
    end
  end
  for _, peer in ipairs(peers) do
    result[peer.name] = peer.process.failure or peer.how
    peer.process:close()
  end
  dense:close()
  return result
end

local function shape_of(row)
  return ('%d, %d, %d, %d'):format(row.experts, row.top_k, row.hidden, row.ffn)
end

--- How Neap stands to those that were measured in turn with it.
local function show_peers(result)
  local rows = {}
  for _, row in ipairs(result.rows) do
    for _, name in ipairs { 'torch', 'sonic', 'liger' } do
      if row[name .. '_both_ms'] then
        rows[#rows + 1] = { shape_of(row), row.load, TITLES[name],
          ('%.2f'):format(row[name .. '_forward_ratio']),
          ('%.2f'):format(row[name .. '_both_ratio']),
          ('%.2f'):format(row[name .. '_both_share']),
          ('%.0f'):format(row[name .. '_kept_bytes'] / 1024), row[name .. '_variant'] }
      end
    end
  end
  for _, name in ipairs { 'torch', 'sonic', 'liger' } do
    if result[name] then print(('%s: %s'):format(TITLES[name], result[name])) end
  end
  if #rows == 0 then return end
  print 'x: their time over Neap\'s, measured in turn; weight gradients: Neap F32, they bf16'
  print(text_table.format({ 'experts, K, H, F', 'load', 'peer', 'forward x', 'both x',
    'both of dense', 'kept KiB/token', 'how' }, rows))
end

local function show(result)
  print(('%s: dense product %.0f TFLOP/s in a burst, copy %.0f GB/s'):format(result.gpu,
    result.dense_burst_tflops, result.copy_gb_per_second))
  print 'TFLOP/s; dense: beside the layer, at the same heat'
  local rows = {}
  for i, r in ipairs(result.rows) do
    rows[i] = {
      shape_of(r), r.load, ('%.0f'):format(r.dense_tflops),
      ('%.0f'):format(r.forward_tflops), ('%.2f'):format(r.forward_share),
      ('%.0f'):format(r.both_tflops), ('%.2f'):format(r.both_share),
      ('%.2f'):format(r.both_share_of_burst), ('%.0f'):format(r.kept_bytes / 1024),
    }
  end
  print(text_table.format({ 'experts, K, H, F', 'load', 'dense', 'forward', 'of dense', 'both',
    'of dense', 'of burst', 'kept KiB/token' }, rows))
  show_peers(result)
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

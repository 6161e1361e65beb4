--- Measures the machine at hand as a cluster description (clusters.lua): all ranks do the same work
-- at once, so that ranks that share memory and links show what each of them gets. Work is measured
-- in processor time, which other programs do not disturb; ranks that share processors get their
-- part.
--
--   local machine = measure.machine(job)       -- collective; the same table on every rank

local lib = require 'neap.lib'
local clusters = require 'neap.cluster'
local metrics = require 'neap.metrics'
local models = require 'neap.cluster.models'
local ops = require 'neap.ops'
local tensor = require 'neap.tensor'

local ffi, C = lib.ffi, lib.C

local measure = {}

local ROUNDS = 7         -- the fastest counts
local LEAST = 4e-3       -- seconds of a round
local MESSAGE = 2 ^ 20   -- bytes to every rank, of the exchange that tells the rate

--- Mean of a number over ranks. Collective.
local function mean(comm, value)
  local buffer = ffi.new('double[1]', value)
  comm:all_reduce(buffer, 1, 'f64', 'sum')
  return buffer[0] / comm:size()
end

local function wall()
  return C.neap_clock()
end

local function processor()
  return C.neap_thread_seconds()
end

--- Seconds of an action on all ranks at once, by a clock (default: processor time): the fastest of
-- some rounds, each with as many repeats as fill LEAST.
local function seconds(comm, action, clock)
  clock = clock or processor
  action()
  local began = clock()
  action()
  local once = math.max(mean(comm, clock() - began), 1e-9)
  local repeats, rounds = math.max(1, math.ceil(LEAST / once)), metrics.series()
  for _ = 1, ROUNDS do
    comm:barrier()
    local start = clock()
    for _ = 1, repeats do action() end
    rounds:add(mean(comm, clock() - start) / repeats)
  end
  return rounds:quantile(0)
end

local function product(comm, rows, width, columns)
  local x = tensor.new('f32', rows, width):normal(1, 1, 0, 1)
  local w = tensor.new('f32', width, columns):normal(1, 2, 0, 1)
  local y = tensor.new('f32', rows, columns)
  return seconds(comm, function() ops.linear(x, w, y) end)
end

--- Rate of large products and the size that costs as much as nothing: 2mkn / rate, x (1 + tile / m)
-- and so on, fits a large and a small product.
local function products(comm)
  local large, small = product(comm, 512, 512, 512), product(comm, 32, 128, 128)
  local flops = { large = 2 * 512 ^ 3, small = 2 * 32 * 128 * 128 }
  local low, high = 0, 64
  for _ = 1, 40 do -- the small one's cost grows with tile
    local tile = (low + high) / 2
    local rate = flops.large / large * (1 + tile / 512) ^ 3
    local model = flops.small / rate * (1 + tile / 32) * (1 + tile / 128) ^ 2
    if model < small then low = tile else high = tile end
  end
  return flops.large / large * (1 + low / 512) ^ 3, low
end

local function memory(comm)
  local size = 2 ^ 18
  local x, y = tensor.zeros('f32', size), tensor.zeros('f32', size)
  return 3 * 4 * size / seconds(comm, function() ops.add(x, y, y) end)
end

--- Share of the products' rate that attention reaches.
local function attention(comm, rate)
  local sequence, heads, width = 128, 4, 128
  local qkv = tensor.new('f32', sequence, 3 * width):normal(1, 3, 0, 1)
  local y, lse = tensor.new('f32', sequence, width), tensor.new('f32', sequence, heads)
  local time = seconds(comm, function() ops.attention(qkv, heads, heads, sequence, y, lse) end)
  return math.min(1, 2 * sequence * sequence * width / time / rate)
end

--- Latency of an all-to-all of nothing, and bytes a second at a rank's port.
local function exchange(comm)
  local ranks = comm:size()
  if ranks == 1 then return 1e-6, math.huge end
  local send = ffi.new('uint8_t[?]', MESSAGE * ranks)
  local recv = ffi.new('uint8_t[?]', MESSAGE * ranks)
  local function all_to_all(bytes)
    local counts = ffi.new('int64_t[?]', ranks)
    for r = 0, ranks - 1 do counts[r] = bytes end
    return seconds(comm, function() comm:all_to_all(send, counts, recv, counts, 'u8') end,
      wall)
  end
  local latency, full = all_to_all(0), all_to_all(MESSAGE)
  return latency, MESSAGE * (ranks - 1) / math.max(full - latency, 1e-9)
end

local function launch(comm)
  local x, y = tensor.zeros('f32', 16), tensor.zeros('f32', 16)
  return seconds(comm, function() ops.add(x, y, y) end)
end

--- Description of a model that trainer.params p describes, as the trainer trains it.
function measure.model(p, ranks)
  local tokens = math.max(1, math.floor(p.batch * p.sequence / ranks))
  return models.describe { hidden = p.hidden, ffn = p.ffn[1], experts = p.experts, top_k = p.top_k,
    slots = p.slots, layers = p.layers, heads = p.heads, kv_heads = p.kv_heads,
    sequence = p.sequence, vocabulary = 256, tokens = tokens, micro_batches = 1, recompute = false,
    bytes = 4, load = { sigma = 0.5, tau = 0.3, rho = 0.99 } }
end

--- The machine, before a training step has told what elementwise work costs. Collective.
function measure.machine(job)
  local comm = job.comm
  local rate, tile = products(comm)
  local latency, port = exchange(comm)
  local core = attention(comm, rate)
  local share = math.min(1, C.neap_processors() / job.ranks)
  local machine = {
    doc = ('measured: %d ranks on %d processors, %s transport'):format(job.ranks,
      C.neap_processors(), comm:transport()),
    ranks = job.ranks, node_size = job.node_size, flops = rate * share, gemm = 1,
    tile = tile, attention = core, memory = memory(comm) * share, launch = launch(comm), host = 0,
    port = port, uplink = port * job.node_size, latency = latency, far_latency = latency,
    capacity = 1e9, queued = false, shared = share < 1, elementwise = 1,
  }
  return clusters.describe(machine)
end

--- What is left of a training step's measured time, as passes through memory: changes
-- machine.elementwise so that the simulated step of a model takes as long. predict(machine): its
-- seconds.
function measure.fit(machine, measured, predict)
  local low, high = 0.01, 100
  for _ = 1, 24 do
    machine.elementwise = math.sqrt(low * high)
    local middle = machine.elementwise
    if predict(machine) < measured then low = middle else high = middle end
  end
  return machine
end

--- The table as a Lua file.
function measure.text(machine)
  local lines = { '--- Made by neap calibrate: a machine as lua/neap/clusters.lua describes them.',
    'return {' }
  for _, name in ipairs(lib.sorted_keys(machine)) do
    local value = machine[name]
    local text = type(value) == 'string' and ('%q'):format(value)
      or value == math.huge and 'math.huge' or type(value) == 'number' and ('%.6g'):format(value)
      or tostring(value)
    lines[#lines + 1] = ('  %s = %s,'):format(name, text)
  end
  lines[#lines + 1] = '}\n'
  return table.concat(lines, '\n')
end

return measure

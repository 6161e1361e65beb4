--- Measures the machine at hand as a cluster description (simulate/machines.lua): all ranks do the
-- same work at once, so that ranks that share memory and links show what each of them gets. On the
-- CPU work is measured in processor time, which other programs do not disturb; ranks that share
-- processors get their part. On a GPU it is measured by the clock, from what was enqueued to its
-- end.
--
--   local machine = measure.machine(job, 'f32')   -- collective; the same table on every rank

local lib = require 'neap.base.lib'
local clusters = require 'neap.simulate.cluster'
local device = require 'neap.engine.device'
local series = require 'neap.base.series'
local ops = require 'neap.engine.ops'
local tensor = require 'neap.engine.tensor'

local ffi, C = lib.ffi, lib.C

local measure = {
  --- Sizes of a training that decide how long its step takes.
  sizes = { 'batch', 'sequence', 'layers', 'hidden', 'ffn', 'experts', 'top_k', 'slots' },
}

local ROUNDS = 7         -- the fastest counts
local LEAST = 4e-3       -- seconds of a round
local MESSAGE = 2 ^ 18   -- numbers to every rank, of the exchange that tells the rate

--- Mean of a number over ranks. Collective.
local function mean(comm, value)
  local buffer = ffi.new('double[1]', value)
  comm:all_reduce(buffer, 1, 'f64', 'sum')
  return buffer[0] / comm:size()
end

local function wall()
  device.wait()
  return C.neap_clock()
end

local function processor()
  return C.neap_thread_seconds()
end

local own_clock = processor -- of work that ranks do

--- Seconds of an action on all ranks at once, by a clock (default: own_clock): the fastest of some
-- rounds, each with as many repeats as fill LEAST.
local function seconds(comm, action, clock)
  clock = clock or own_clock
  action()
  local began = clock()
  action()
  local once = math.max(mean(comm, clock() - began), 1e-9)
  local repeats, rounds = math.max(1, math.ceil(LEAST / once)), series.open()
  for _ = 1, ROUNDS do
    comm:barrier()
    local start = clock()
    for _ = 1, repeats do action() end
    rounds:add(mean(comm, clock() - start) / repeats)
  end
  return rounds:quantile(0)
end

local function product(comm, dtype, rows, width, columns)
  local x = tensor.new(dtype, rows, width):normal(1, 1, 0, 1)
  local w = tensor.new(dtype, width, columns):normal(1, 2, 0, 1)
  local y = tensor.new(dtype, rows, columns)
  return seconds(comm, function() ops.linear(x, w, y) end)
end

--- Rate of large products and the size that costs as much as nothing: 2mkn / rate,
-- x (1 + tile / m) and so on, fits a large product (of a size) and a small one.
local function products(comm, dtype, size)
  local few, narrow = size / 16, size / 4
  local large = product(comm, dtype, size, size, size)
  local small = product(comm, dtype, few, narrow, narrow)
  local flops = { large = 2 * size ^ 3, small = 2 * few * narrow * narrow }
  local low, high = 0, 64
  for _ = 1, 40 do -- the small one's cost grows with tile
    local tile = (low + high) / 2
    local rate = flops.large / large * (1 + tile / size) ^ 3
    local model = flops.small / rate * (1 + tile / few) * (1 + tile / narrow) ^ 2
    if model < small then low = tile else high = tile end
  end
  return flops.large / large * (1 + low / size) ^ 3, low
end

local function memory(comm, size)
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

--- Latency of an all-to-all of nothing, and bytes per second at a rank's port.
local function exchange(comm)
  local ranks = comm:size()
  if ranks == 1 then return 1e-6, 1e12 end
  local send, recv = tensor.zeros('f32', MESSAGE * ranks), tensor.zeros('f32', MESSAGE * ranks)
  local function all_to_all(numbers)
    local counts = ffi.new('int64_t[?]', ranks)
    for r = 0, ranks - 1 do counts[r] = numbers end
    return seconds(comm, function() comm:all_to_all(send, counts, recv, counts) end, wall)
  end
  local latency, full = all_to_all(1), all_to_all(MESSAGE)
  return latency, 4 * MESSAGE * (ranks - 1) / math.max(full - latency, 1e-9)
end

local function launch(comm)
  local x, y = tensor.zeros('f32', 16), tensor.zeros('f32', 16)
  return seconds(comm, function() ops.add(x, y, y) end)
end

--- How ranks share what computes: processors, or a GPU. Returns the share of the measured rates
-- that a rank has when all work at once, whether there is less than one for each, and what.
local function sharing(job)
  if job.device == 'cuda' then
    local gpus = device.count()
    return 1, gpus < job.ranks, ('%d GPUs'):format(gpus)
  end
  local share = math.min(1, job.processors / job.ranks)
  return share, share < 1, ('%d processors'):format(job.processors)
end

--- The machine, before training steps have told what its operations measured alone do not. dtype:
-- of trainings. Collective.
function measure.machine(job, dtype)
  local comm, cuda = job.comm, job.device == 'cuda'
  own_clock = cuda and wall or processor
  local rate, tile = products(comm, dtype, cuda and 2048 or 512)
  local latency, port = exchange(comm)
  local core = attention(comm, rate)
  local share, shared, what = sharing(job)
  return clusters.describe {
    doc = ('measured: %d ranks on %s, %s transport'):format(job.ranks, what, comm:transport()),
    ranks = job.ranks, node_size = job.node_size, flops = rate * share, gemm = 1, tile = tile,
    attention = core, memory = memory(comm, cuda and 2 ^ 24 or 2 ^ 18) * share,
    launch = launch(comm), host = 0, port = port, uplink = port * job.node_size, latency = latency,
    far_latency = latency, capacity = 1e9, queued = false, shared = shared, copied = shared,
    elementwise = 1,
  }
end

--- The table as a Lua file.
function measure.text(machine)
  local lines = {
    '--- Made by neap calibrate: a machine as lua/neap/simulate/machines.lua describes them.',
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

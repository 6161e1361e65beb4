-- SPDX-License-Identifier: Apache-2.0

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
-- Numbers to every rank, of the exchanges that tell rates; on the CPU, whose ranks copy, one rate.
local MESSAGES = { cpu = { 2 ^ 18 },
  cuda = { 2 ^ 14, 2 ^ 16, 2 ^ 18, 2 ^ 20, 2 ^ 22, 2 ^ 24, 2 ^ 26 } }

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

--- Bytes per second at a port by bytes of a message, of seconds that exchanges of numbers to every
-- rank took beyond the latency: a list of { bytes, rate } in which no message takes less time than
-- a smaller one.
local function rates_of(sizes, times, latency, ranks)
  local list, least = {}, 0
  for i, numbers in ipairs(sizes) do
    least = math.max(least, times[i] - latency, 1e-9)
    list[i] = { 4 * numbers, 4 * numbers * (ranks - 1) / least }
  end
  return list
end

--- Links of a machine: latency of an all-to-all of nothing, port and, if sizes (numbers to every
-- rank) are more than one, rates by size; collective, what a reduce-scatter of the largest reaches.
local function exchange(comm, sizes)
  local ranks = comm:size()
  if ranks == 1 then return { latency = 1e-6, port = 1e12 } end
  local most = sizes[#sizes]
  local send, recv = tensor.zeros('f32', most * ranks), tensor.zeros('f32', most * ranks)
  local counts = ffi.new('int64_t[?]', ranks)
  local function measured(numbers, action)
    for r = 0, ranks - 1 do counts[r] = numbers end
    return seconds(comm, action, wall)
  end
  local function all_to_all() comm:all_to_all(send, counts, recv, counts) end
  local latency, times = measured(1, all_to_all), {}
  for i, numbers in ipairs(sizes) do times[i] = measured(numbers, all_to_all) end
  local summed = measured(most, function() comm:reduce_scatter(send, recv, counts, 'f32') end)
  local rates = rates_of(sizes, times, latency, ranks)
  return { latency = latency, port = rates[#rates][2], rates = #rates > 1 and rates or nil,
    collective = 4 * most * (ranks - 1) / math.max(summed - latency, 1e-9) }
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
  local links = exchange(comm, MESSAGES[job.device] or MESSAGES.cpu)
  local core = attention(comm, rate)
  local share, shared, what = sharing(job)
  return clusters.describe {
    doc = ('measured: %d ranks on %s, %s transport'):format(job.ranks, what, comm:transport()),
    ranks = job.ranks, node_size = job.node_size, flops = rate * share, gemm = 1, tile = tile,
    attention = core, memory = memory(comm, cuda and 2 ^ 24 or 2 ^ 18) * share,
    launch = launch(comm), host = 0, port = links.port, uplink = links.port * job.node_size,
    latency = links.latency, far_latency = links.latency, rates = not shared and links.rates or nil,
    collective = not shared and links.collective or nil, capacity = 1e9, queued = false,
    shared = shared, copied = shared, elementwise = 1,
  }
end

--- A value as Lua reads it; tables with their fields in order.
local function literal(value)
  if type(value) == 'string' then return ('%q'):format(value) end
  if value == math.huge then return 'math.huge' end
  if type(value) == 'number' then return ('%.6g'):format(value) end
  if type(value) ~= 'table' then return tostring(value) end
  local parts = {}
  for _, item in ipairs(value) do parts[#parts + 1] = literal(item) end
  for _, name in ipairs(#value == 0 and lib.sorted_keys(value) or {}) do
    local key = name:match '^%a%w*$' and name or ('[%q]'):format(name)
    parts[#parts + 1] = ('%s = %s'):format(key, literal(value[name]))
  end
  return '{ ' .. table.concat(parts, ', ') .. ' }'
end

--- The table as a Lua file.
function measure.text(machine)
  local lines = {
    '--- Made by neap calibrate: a machine as lua/neap/simulate/machines.lua describes them.',
    'return {' }
  for _, name in ipairs(lib.sorted_keys(machine)) do
    lines[#lines + 1] = ('  %s = %s,'):format(name, literal(machine[name]))
  end
  lines[#lines + 1] = '}\n'
  return table.concat(lines, '\n')
end

return measure

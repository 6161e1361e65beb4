-- SPDX-License-Identifier: Apache-2.0

--- One rank of neap bench moe --ranks: a layer over ranks, with resident experts and with the
-- layouts of planners, as processes.run calls it: (rank, ranks, world, ORDER).
-- A sample begins when all ranks are ready and ends when the last one is done: forward is routing,
-- split, dispatch, experts and combine; backward the same way back. Unshard and reduce, which a
-- training hides behind other layers, are timed alone.

local on_rank = require 'neap.bench.ranks.entry'
local ceilings = require 'neap.bench.moe.ceilings'
local device = require 'neap.engine.device'
local json = require 'neap.base.json'
local launch = require 'neap.train.launch'
local lib = require 'neap.base.lib'
local moe = require 'neap.engine.moe'
local plan = require 'neap.engine.plan'
local series = require 'neap.base.series'
local shapes = require 'neap.bench.moe.shapes'
local shards = require 'neap.engine.shards'
local splits = require 'neap.engine.split'
local tensor = require 'neap.engine.tensor'
local text_table = require 'neap.base.text_table'
local topologies = require 'neap.engine.topology'

local C = lib.C

local WARM_UP = 3
local BYTES = { f32 = 4, bf16 = 2 }

local ORDER = {
  'bench', 'device', 'gpu', 'dtype', 'ranks', 'rows', 'experts', 'top_k', 'hidden', 'ffn', 'tokens',
  'load', 'hottest', 'policy', 'slots', 'imbalance', 'inter_rank', 'forward_ms', 'forward_low_ms',
  'forward_high_ms', 'backward_ms', 'backward_low_ms', 'backward_high_ms', 'forward_tflops',
  'backward_tflops', 'kept_bytes', 'unshard_ms', 'reduce_ms',
}

-- ---- what is measured ---------------------------------------------------------------------------

--- Slots of a rank: just enough for every expert once, or what --slots says, but no fewer.
local function slots_of(policy, p, shape, ranks)
  local fewest = math.ceil(shape.experts / ranks)
  if policy == 'resident' then return fewest end
  return math.max(fewest, p.slots > 0 and p.slots or 2 * fewest)
end

--- The layer, its tensors, and a place for its experts' parameters and gradients. Column 0 of x is
-- 1, so that row 0 of the router is a bias.
local function open(channel, rank, ranks, shape, tokens, dtype)
  local s = { channel = channel, rank = rank, ranks = ranks, p = shape, tokens = tokens,
    dtype = dtype }
  local function random(stream, scale, ...)
    return ceilings.random_of(dtype, stream, scale, ...)
  end
  s.x = random(10 + rank, 1, tokens, shape.hidden)
  s.dy = random(10 + ranks + rank, 1, tokens, shape.hidden)
  local one = tensor.new(dtype, 1):fill(1)
  for t = 0, tokens - 1 do s.x:copy(one, 1, t * shape.hidden) end
  s.router = random(3, 1 / math.sqrt(shape.hidden), shape.hidden, shape.experts)
  s.drouter = tensor.new('f32', shape.hidden, shape.experts)
  s.y, s.dx = tensor.new(dtype, tokens, shape.hidden), tensor.new(dtype, tokens, shape.hidden)
  return s
end

local TENSORS = { 'x', 'dy', 'router', 'drouter', 'y', 'dx' }

local function close(s, names)
  for _, name in ipairs(names) do s[name]:close() end
end

--- A layer on a topology with so many slots a rank; case.layout is set by what follows.
local function open_case(s, slots)
  local p, case, ffn = s.p, {}, {}
  for e = 1, p.experts do ffn[e] = p.ffn end
  case.topology = topologies.open { ranks = s.ranks, slots = slots, experts = p.experts }
  function case.open_layer()
    return moe.open { comm = s.channel, topology = case.topology, hidden = p.hidden, ffn = ffn,
      top_k = p.top_k, dtype = s.dtype }
  end
  case.layer = case.open_layer()
  case.split = splits.open(case.topology, 'minimax')
  local size = 3 * p.hidden * p.ffn
  case.weights = ceilings.random_of(s.dtype, 4, 1 / math.sqrt(p.hidden), slots, size)
  case.gradients = tensor.new('f32', slots, size)
  return case
end

local function close_case(case)
  case.layer:close()
  close(case, { 'weights', 'gradients', 'split', 'topology' })
end

local function forward(s, case)
  case.layer:route(s.x, s.router)
  case.split:compute(case.layout, case.layer:load())
  case.layer:dispatch(s.x, case.layout, case.split)
  case.layer:forward(case.weights, s.y)
end

local function backward(s, case)
  case.layer:backward_dispatch(s.dy)
  case.layer:backward(s.x, s.router, case.weights, case.gradients, s.dx, s.drouter)
end

-- ---- measuring ----------------------------------------------------------------------------------

--- Seconds of actions that all ranks begin together, one after the other: a series each.
local function measure(s, repeats, ...)
  local actions, times = { ... }, {}
  for i = 1, #actions do times[i] = series.open() end
  for round = 1, WARM_UP + repeats do
    for i, action in ipairs(actions) do
      device.wait()
      s.channel:barrier()
      local start = C.neap_clock()
      action()
      device.wait()
      s.channel:barrier()
      if round > WARM_UP then times[i]:add(C.neap_clock() - start) end
    end
  end
  return unpack(times)
end

--- Bytes that the ranks of this process hold, once all have done what they were to.
local function held(s)
  device.wait()
  s.channel:barrier()
  local bytes = device.held()
  s.channel:barrier()
  return bytes
end

--- Bytes a token that are kept from forward to backward, mean over the ranks of a process: what
-- closing the layer then gives back, and its input. What layers share stays with another one.
local function kept(s, case)
  local other = case.open_layer()
  forward(s, case)
  local with = held(s)
  case.layer:close()
  local without = held(s)
  case.layer = case.open_layer()
  other:close()
  local here = launch.rank_and_size() and 1 or s.ranks
  return ((with - without) / here + BYTES[s.dtype] * s.x.count) / s.tokens
end

--- Milliseconds of an unshard and of a reduce of the case's layout.
local function transfers(s, case, repeats)
  local sizes, size = {}, 3 * s.p.hidden * s.p.ffn
  for e = 1, s.p.experts do sizes[e] = size end
  local comm = s.channel:duplicate()
  local store = shards.open { comm = comm, topology = case.topology, sizes = sizes,
    dtype = s.dtype }
  store:refresh()
  local unshard, reduce = measure(s, repeats, function()
    store:unshard_start(case.layout, case.weights):wait()
  end, function()
    store:reduce_start(case.layout, case.gradients, case.layer:slot_tokens()):wait()
  end)
  store:close()
  comm:close()
  return 1e3 * unshard:quantile(0.5), 1e3 * reduce:quantile(0.5)
end

local function add_times(row, kind, times, flops)
  row[kind .. '_ms'] = 1e3 * times:quantile(0.5)
  row[kind .. '_low_ms'], row[kind .. '_high_ms'] = 1e3 * times:quantile(0),
    1e3 * times:quantile(1)
  row[kind .. '_tflops'] = flops / times:quantile(0.5) / 1e12
end

--- The row of a load under a policy: planned on the counts that the routing gives.
local function measure_policy(s, p, load, policy)
  local slots = slots_of(policy, p, s.p, s.ranks)
  local case = open_case(s, slots)
  case.layer:route(s.x, s.router)
  local planner = plan.open(policy == 'resident' and 'static' or policy, case.topology)
  case.layout = planner:plan(case.layer:load())
  local ahead, back = measure(s, p.repeats, function() forward(s, case) end,
    function() backward(s, case) end)
  local balance, q = case.split:balance(), s.p
  local row = { policy = policy, slots = slots, load = load, tokens = s.tokens,
    hottest = shapes.hottest(case.layer, s.ranks, q.experts), imbalance = balance.imbalance,
    inter_rank = balance.remote / balance.tokens }
  for name, value in pairs(q) do row[name] = value end
  row.kept_bytes = kept(s, case)
  local flops = 6 * s.tokens * q.top_k * q.hidden * q.ffn
  add_times(row, 'forward', ahead, flops)
  add_times(row, 'backward', back, 2 * flops)
  if policy ~= 'resident' then row.unshard_ms, row.reduce_ms = transfers(s, case, p.repeats) end
  planner:close()
  close_case(case)
  return row
end

--- Tunes the router to a load, with a layer of its own.
local function tune(s, load)
  local case = open_case(s, math.ceil(s.p.experts / s.ranks))
  shapes.tune(case.layer, s.ranks, s.p.experts, s.router, load, function()
    case.layer:route(s.x, s.router)
  end):close()
  close_case(case)
end

-- ---- what is printed ----------------------------------------------------------------------------

local function show(document)
  print(('%s: %d ranks, %s, tokens of a rank, TFLOP/s of a rank; [fastest, slowest] of %d'):format(
    document.gpu or 'CPU', document.ranks, document.dtype, document.repeats))
  local rows = {}
  for i, r in ipairs(document.rows) do
    local function times(kind)
      return ('%.2f [%.2f, %.2f]'):format(r[kind .. '_ms'], r[kind .. '_low_ms'],
        r[kind .. '_high_ms'])
    end
    rows[i] = { ('%d, %d, %d, %d'):format(r.experts, r.top_k, r.hidden, r.ffn), r.load, r.policy,
      ('%.3f'):format(r.imbalance), times 'forward', ('%.3g'):format(r.forward_tflops),
      times 'backward', ('%.3g'):format(r.backward_tflops), ('%.0f'):format(r.kept_bytes / 1024),
      r.unshard_ms and ('%.2f'):format(r.unshard_ms) or '',
      r.reduce_ms and ('%.2f'):format(r.reduce_ms) or '' }
  end
  print(text_table.format({ 'experts, K, H, F', 'load', 'policy', 'imbalance', 'forward ms',
    'TFLOP/s', 'backward ms', 'TFLOP/s', 'kept KiB/token', 'unshard ms', 'reduce ms' }, rows))
end

local function run(channel, rank, ranks, order)
  local p, rows = order.params, {}
  local list, tokens = shapes.of(p)
  for _, shape in ipairs(list) do
    local s = open(channel, rank, ranks, shape, tokens, order.dtype)
    for _, load in ipairs(shapes.loads(p)) do
      tune(s, load)
      for _, policy in ipairs(p.policies) do
        rows[#rows + 1] = measure_policy(s, p, load, policy)
      end
    end
    close(s, TENSORS)
  end
  if rank > 0 then return end
  local document = { bench = 'moe', device = order.device, ranks = ranks, dtype = order.dtype,
    repeats = p.repeats, gpu = order.device == 'cuda' and device.describe(0) or nil, rows = rows }
  if order.json then print(json.results('bench', document, ORDER)) else show(document) end
end

return on_rank(run, ...)

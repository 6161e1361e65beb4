--- One bf16 layer on a GPU: its time forward, and forward and backward, with loads as wanted; and
-- the machine's ceilings, a dense product and a copy.

local lib = require 'neap.lib'
local comm = require 'neap.comm'
local device = require 'neap.device'
local layout = require 'neap.layout'
local metrics = require 'neap.metrics'
local moe = require 'neap.moe'
local ops = require 'neap.ops'
local split = require 'neap.split'
local tensor = require 'neap.tensor'
local topology = require 'neap.topology'

local ffi, C, check = lib.ffi, lib.C, lib.check

local layer = { WARM_UP = 2 }

--- Exponent s of loads that fall as 1 / rank^s.
local LOADS = { balanced = 0, skewed = 0.6 }

local SEED = 1
local PATTERN = 4194301     -- random numbers that fill a large tensor again and again; a prime
local DENSE = 8192          -- side of the dense product
local COPY = 2 ^ 31         -- elements of the copy, 2 bytes each
local TUNING, STEP = 12, 0.7

--- Median seconds of an action.
local function measure(repeats, action)
  local series = metrics.series()
  for i = 1, layer.WARM_UP + repeats do
    device.wait()
    local start = C.neap_clock()
    action()
    device.wait()
    if i > layer.WARM_UP then series:add(C.neap_clock() - start) end
  end
  return series:quantile(0.5)
end

--- Fills a bf16 tensor with scale x normal numbers.
local function random(stream, scale, ...)
  local t = tensor.new('bf16', ...)
  local pattern = tensor.new('bf16', math.min(PATTERN, t.count)):normal(SEED, stream, 0, scale)
  for at = 0, t.count - 1, PATTERN do
    t:copy(pattern, math.min(PATTERN, t.count - at), at)
  end
  pattern:close()
  return t
end

-- ---- ceilings -----------------------------------------------------------------------------------

--- Operations a second of a dense product, and bytes a second, read and written, of a copy.
function layer.ceilings(repeats)
  local a, b = random(1, 1, DENSE, DENSE), random(2, 1, DENSE, DENSE)
  local c = tensor.new('bf16', DENSE, DENSE)
  local seconds = measure(repeats, function() ops.linear(a, b, c) end)
  for _, t in ipairs { a, b, c } do t:close() end
  local from, to = random(3, 1, COPY), tensor.new('bf16', COPY)
  local copy = measure(repeats, function() to:copy(from) end)
  from:close()
  to:close()
  return { flops = 2 * DENSE ^ 3 / seconds, bytes = 2 * 2 * COPY / copy }
end

-- ---- the layer ----------------------------------------------------------------------------------

--- The layer and the tensors of a step. Column 0 of x is 1, so that row 0 of the router is a bias.
local function open_step(p)
  local s, out = { p = p }, ffi.new 'neap_world *[1]'
  check(C.neap_world_open(1, out))
  s.comm = comm.open_local(out[0], 0)
  s.topology = topology.open { ranks = 1, slots = p.experts, experts = p.experts }
  s.layout, s.split = layout.open(s.topology), split.open(s.topology, 'lite')
  local experts, ffn, size = {}, {}, 3 * p.hidden * p.ffn
  for e = 1, p.experts do experts[e], ffn[e] = e - 1, p.ffn end
  s.layout:set(experts)
  s.layer = moe.open { comm = s.comm, topology = s.topology, hidden = p.hidden, ffn = ffn,
    top_k = p.top_k, dtype = 'bf16' }
  s.x, s.dy = random(1, 1, p.tokens, p.hidden), random(2, 1, p.tokens, p.hidden)
  local one = tensor.new('bf16', 1):fill(1)
  for t = 0, p.tokens - 1 do s.x:copy(one, 1, t * p.hidden) end
  s.router = random(3, 1 / math.sqrt(p.hidden), p.hidden, p.experts)
  s.weights = random(4, 1 / math.sqrt(p.hidden), p.experts, size)
  s.gradients = tensor.new('f32', p.experts, size)
  s.drouter = tensor.new('f32', p.hidden, p.experts)
  s.y, s.dx = tensor.new('bf16', p.tokens, p.hidden), tensor.new('bf16', p.tokens, p.hidden)
  return s
end

local function close_step(s)
  s.layer:close()
  for _, name in ipairs { 'x', 'dy', 'router', 'weights', 'gradients', 'drouter', 'y', 'dx' } do
    s[name]:close()
  end
  s.split:close()
  s.layout:close()
  s.topology:close()
  s.comm:close()
end

--- Changes the router's bias until the loads are as 1 / rank^exponent.
local function tune(s, exponent)
  local p, total, bias = s.p, 0, {}
  for e = 1, p.experts do
    total = total + e ^ -exponent
    bias[e] = 0
  end
  for _ = 1, TUNING do
    s.layer:route(s.x, s.router)
    local load = s.layer:load()
    for e = 1, p.experts do
      local wanted = p.tokens * p.top_k * e ^ -exponent / total
      bias[e] = bias[e] + STEP * math.log(wanted / math.max(1, tonumber(load[e - 1])))
    end
    local row = tensor.of('bf16', bias)
    s.router:copy(row, p.experts)
    row:close()
  end
end

local function forward(s)
  s.layer:route(s.x, s.router)
  s.split:compute(s.layout, s.layer:load())
  s.layer:dispatch(s.x, s.layout, s.split)
  s.layer:forward(s.weights, s.y)
end

local function forward_backward(s)
  forward(s)
  s.layer:backward_dispatch(s.dy)
  s.layer:backward(s.x, s.router, s.weights, s.gradients, s.dx, s.drouter)
end

--- Largest load over the mean.
local function imbalance(s)
  local load, largest = s.layer:load(), 0
  for e = 0, s.p.experts - 1 do largest = math.max(largest, tonumber(load[e])) end
  return largest * s.p.experts / (s.p.tokens * s.p.top_k)
end

--- Bytes a token that the layer keeps from forward to backward: its input, logits and
-- probabilities, and for each choice the expert's input, gate and up, and output, the weight and
-- the row.
local function kept(p)
  return 2 * p.hidden + 8 * p.experts + p.top_k * (2 * (2 * p.hidden + 2 * p.ffn) + 8 + 4)
end

--- A row of results for each load.
function layer.measure(shape, loads, tokens, repeats)
  local p, rows = { tokens = tokens }, {}
  for name, value in pairs(shape) do p[name] = value end
  local s = open_step(p)
  for _, name in ipairs(loads) do
    tune(s, LOADS[name])
    local row = { load = name, tokens = tokens, kept_bytes = kept(p) }
    for key, value in pairs(shape) do row[key] = value end
    row.forward_ms = 1e3 * measure(repeats, function() forward(s) end)
    row.both_ms = 1e3 * measure(repeats, function() forward_backward(s) end)
    row.imbalance = imbalance(s)
    rows[#rows + 1] = row
  end
  close_step(s)
  return rows
end

return layer

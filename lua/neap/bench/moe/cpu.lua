-- SPDX-License-Identifier: Apache-2.0

--- The layer on the CPU in one thread, against plain BLAS products of the same shapes in the same
-- run.

local lib = require 'neap.base.lib'
local comm = require 'neap.engine.comm'
local json = require 'neap.base.json'
local machine = require 'neap.base.machine'
local layout = require 'neap.engine.layout'
local moe = require 'neap.engine.moe'
local split = require 'neap.engine.split'
local tensor = require 'neap.engine.tensor'
local text_table = require 'neap.base.text_table'
local topology = require 'neap.engine.topology'

local ffi, C, check = lib.ffi, lib.C, lib.check

local cpu = {}

local SEED = 1

--- The layer and the tensors of a step.
local function open_step(p)
  local s = { p = p }
  local out = ffi.new 'neap_world *[1]'
  check(C.neap_world_open(1, out))
  s.comm = comm.open_local(out[0], 0)
  C.neap_world_close(out[0])
  s.topology = topology.open { ranks = 1, slots = p.experts, experts = p.experts }
  s.layout, s.split = layout.open(s.topology), split.open(s.topology, 'lite')
  local experts, ffn = {}, {}
  for e = 1, p.experts do experts[e], ffn[e] = e - 1, p.ffn end
  s.layout:set(experts)
  s.layer = moe.open { comm = s.comm, topology = s.topology, hidden = p.hidden, ffn = ffn,
    top_k = p.top_k, exact = p.exact }
  local function normal(stream, scale, ...)
    return tensor.new('f32', ...):normal(SEED, stream, 0, scale)
  end
  local size, sums = 3 * p.hidden * p.ffn, p.exact and 'f64' or 'f32'
  s.x, s.dy = normal(1, 1, p.tokens, p.hidden), normal(2, 1, p.tokens, p.hidden)
  s.router = normal(3, 1 / math.sqrt(p.hidden), p.hidden, p.experts)
  s.weights = normal(4, 1 / math.sqrt(p.hidden), p.experts, size)
  s.gradients = tensor.new(sums, p.experts, size)
  s.drouter = tensor.zeros(sums, p.hidden, p.experts)
  s.y, s.dx = tensor.new('f32', p.tokens, p.hidden), tensor.new('f32', p.tokens, p.hidden)
  return s
end

local function run_layer(s)
  s.layer:route(s.x, s.router)
  s.split:compute(s.layout, s.layer:load())
  s.layer:dispatch(s.x, s.layout, s.split)
  s.layer:forward(s.weights, s.y)
  s.layer:backward_dispatch(s.dy)
  s.layer:backward(s.x, s.router, s.weights, s.gradients, s.dx, s.drouter)
end

--- The products of one expert with so many rows: a, b, c and which of a and b are transposed.
local function products_of(s, expert, rows)
  local h, f = s.p.hidden, s.p.ffn
  local at = expert * 3 * h * f
  local w1, w2 = s.weights:view(at, h, 2 * f), s.weights:view(at + 2 * h * f, f, h)
  local x, wide, narrow = s.rows:view(0, rows, h), s.wide:view(0, rows, 2 * f),
    s.narrow:view(0, rows, f)
  local y, dw1, dw2 = s.out:view(0, rows, h), s.dw:view(0, h, 2 * f), s.dw:view(0, f, h)
  return {
    { x, 0, w1, 0, wide }, { narrow, 0, w2, 0, y },  -- forward
    { x, 0, w2, 1, narrow }, { wide, 0, w1, 1, y },  -- gradients of inputs
    { x, 1, wide, 0, dw1 }, { narrow, 1, x, 0, dw2 }, -- gradients of weights
  }
end

--- The products of all experts, for the rows that the layer gave them.
local function open_products(s)
  local p, list = s.p, {}
  local function normal(columns) return tensor.new('f32', p.tokens, columns):normal(SEED, 5) end
  s.rows, s.wide, s.narrow, s.out = normal(p.hidden), normal(2 * p.ffn), normal(p.ffn),
    normal(p.hidden)
  s.dw = tensor.new('f32', 2 * p.ffn * p.hidden)
  for e = 0, p.experts - 1 do
    for _, product in ipairs(products_of(s, e, tonumber(s.layer:load()[e]))) do
      list[#list + 1] = product
    end
  end
  return list
end

local function run_products(list)
  for _, q in ipairs(list) do
    check(C.neap_blas_product(q[1].ptr, q[2], q[3].ptr, q[4], q[5].ptr))
  end
end

local function seconds(f, argument)
  local start = C.neap_clock()
  f(argument)
  return C.neap_clock() - start
end

--- Runs both in turn; the fastest seconds of the layer, of its experts alone, and of BLAS.
local function measure(s)
  run_layer(s)
  local products = open_products(s)
  local best = { layer = math.huge, experts = math.huge, blas = math.huge }
  run_products(products)
  for _ = 1, s.p.repeats do
    local before = s.layer:cost()
    best.layer = math.min(best.layer, seconds(run_layer, s))
    best.experts = math.min(best.experts, s.layer:cost().experts - before.experts)
    best.blas = math.min(best.blas, seconds(run_products, products))
  end
  s.layer:close()
  s.comm:close()
  return best
end

local function summarise(p, best)
  local flops = 18 * p.tokens * p.top_k * p.hidden * p.ffn
  local function rate(time) return flops / time / 1e9 end
  return {
    device = 'cpu', machine = machine.processor(), threads = 1, hidden = p.hidden, ffn = p.ffn,
    experts = p.experts, top_k = p.top_k, tokens = p.tokens, exact = p.exact,
    seconds = best.layer, gflops = rate(best.layer), experts_gflops = rate(best.experts),
    blas_gflops = rate(best.blas), ratio = best.blas / best.layer,
    experts_ratio = best.blas / best.experts,
  }
end

local ORDER = {
  'bench', 'device', 'machine', 'threads', 'hidden', 'ffn', 'experts', 'top_k', 'tokens', 'exact',
  'seconds', 'gflops', 'experts_gflops', 'blas_gflops', 'ratio', 'experts_ratio',
}

local function show(p, result)
  print(('%s, one thread: hidden %d, ffn %d, %d experts, top-%d, %d tokens, forward + backward')
    :format(result.machine, p.hidden, p.ffn, p.experts, p.top_k, p.tokens))
  local function row(what, rate, ratio)
    return { what, ('%.1f'):format(rate), ('%.2f'):format(ratio) }
  end
  print(text_table.format({ 'expert products', 'GFLOP/s', 'of BLAS' }, {
    row('whole layer', result.gflops, result.ratio),
    row('experts alone', result.experts_gflops, result.experts_ratio),
    row('plain BLAS', result.blas_gflops, 1),
  }))
end

function cpu.run(p, as_json)
  local result = summarise(p, measure(open_step(p)))
  if as_json then
    print(json.results('bench', { bench = 'moe', rows = { result } }, ORDER))
  else
    show(p, result)
  end
end

return cpu

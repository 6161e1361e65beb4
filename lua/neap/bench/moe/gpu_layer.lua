-- SPDX-License-Identifier: Apache-2.0

--- One bf16 layer on a GPU, with loads as wanted: its time forward, and forward and backward,
-- beside dense products (ceilings.lua), and the memory that it keeps in between.
--
--   local step = layer.open(shape, { 'balanced', 'skewed' }, tokens, dense)
--   step:sample()                               -- warms up, then again and again: one of each
--   step:forget()
--   step:rows()

local lib = require 'neap.base.lib'
local ceilings = require 'neap.bench.moe.ceilings'
local comm = require 'neap.engine.comm'
local device = require 'neap.engine.device'
local layout = require 'neap.engine.layout'
local series = require 'neap.base.series'
local moe = require 'neap.engine.moe'
local shapes = require 'neap.bench.moe.shapes'
local split = require 'neap.engine.split'
local tensor = require 'neap.engine.tensor'
local topology = require 'neap.engine.topology'

local ffi, C, check = lib.ffi, lib.C, lib.check

local layer = {}

local Step = {}
Step.__index = Step

-- ---- the layer ----------------------------------------------------------------------------------

local function open_layer(s)
  local ffn = {}
  for e = 1, s.p.experts do ffn[e] = s.p.ffn end
  return moe.open { comm = s.comm, topology = s.topology, hidden = s.p.hidden, ffn = ffn,
    top_k = s.p.top_k, dtype = 'bf16' }
end

--- The layer and the tensors of a step. Column 0 of x is 1, so that row 0 of the router is a bias.
local function open_step(p)
  local s, out = setmetatable({ p = p }, Step), ffi.new 'neap_world *[1]'
  check(C.neap_world_open(1, out))
  s.comm = comm.open_local(out[0], 0)
  C.neap_world_close(out[0])
  s.topology = topology.open { ranks = 1, slots = p.experts, experts = p.experts }
  s.layout, s.split = layout.open(s.topology), split.open(s.topology, 'lite')
  local experts, size, random = {}, 3 * p.hidden * p.ffn, ceilings.random
  for e = 1, p.experts do experts[e] = e - 1 end
  s.layout:set(experts)
  s.layer = open_layer(s)
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

function Step:close()
  self.layer:close()
  for _, name in ipairs { 'x', 'dy', 'router', 'weights', 'gradients', 'drouter', 'y', 'dx' } do
    self[name]:close()
  end
  for _, load in ipairs(self.loads) do load.bias:close() end
  self.split:close()
  self.layout:close()
  self.topology:close()
  self.comm:close()
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

-- ---- loads --------------------------------------------------------------------------------------

local function set_bias(s, bias)
  s.router:copy(bias, s.p.experts)
end

-- ---- measuring ----------------------------------------------------------------------------------

--- Bytes a token that are kept from forward to backward: what closing the layer then gives back,
-- and its input. What layers share, one workspace for all of them, stays with the other one.
local function kept(s)
  local other = open_layer(s)
  forward(s)
  device.wait()
  local with = device.held()
  s.layer:close()
  device.wait()
  local without = device.held()
  s.layer = open_layer(s)
  other:close()
  return (with - without + 2 * s.x.count) / s.p.tokens
end

--- loads: names. dense: a product whose rate has been measured.
function layer.open(shape, loads, tokens, dense)
  local p = { tokens = tokens }
  for name, value in pairs(shape) do p[name] = value end
  local s = open_step(p)
  s.dense, s.loads, s.kept_bytes = dense, {}, kept(s)
  for i, name in ipairs(loads) do
    s.loads[i] = { name = name, bias = shapes.tune(s.layer, 1, p.experts, s.router, name,
      function() s.layer:route(s.x, s.router) end) }
  end
  s:forget()
  return s
end

--- Forgets all samples, but not how long they took.
function Step:forget()
  for _, load in ipairs(self.loads) do
    load.forward, load.both, load.rate = series.open(), series.open(), series.open()
  end
end

local ACTIONS = { forward = forward, both = forward_backward }

--- One sample of the layer under each load, forward and forward + backward, each beside dense
-- products, so that all of them find the same heat.
function Step:sample()
  for _, load in ipairs(self.loads) do
    set_bias(self, load.bias)
    load.latest = load.latest or { forward = 0, both = 0 }
    for _, kind in ipairs { 'forward', 'both' } do
      local seconds, rate = self.dense:beside(load.latest[kind], function() ACTIONS[kind](self) end)
      load[kind]:add(seconds)
      load.rate:add(rate)
      load.latest[kind] = seconds
    end
    load.hottest = shapes.hottest(self.layer, 1, self.p.experts)
  end
end

--- Seconds of forward and backward under the first load, as last sampled.
function Step:latest()
  return self.loads[1].latest.both
end

--- A row of medians for each load.
function Step:rows()
  local rows = {}
  for i, load in ipairs(self.loads) do
    rows[i] = { load = load.name, hottest = load.hottest, kept_bytes = self.kept_bytes,
      samples = load.both.count, forward_ms = 1e3 * load.forward:quantile(0.5),
      both_ms = 1e3 * load.both:quantile(0.5), dense_tflops = load.rate:quantile(0.5) / 1e12 }
    for name, value in pairs(self.p) do rows[i][name] = value end
  end
  return rows
end

return layer

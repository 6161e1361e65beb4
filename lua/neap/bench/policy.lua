-- SPDX-License-Identifier: Apache-2.0

--- neap bench policy: what a round trip from a rank to a policy in its worker process and back
-- costs: a load goes out, a layout comes in.

local lib = require 'neap.base.lib'
local json = require 'neap.base.json'
local machine = require 'neap.base.machine'
local launcher = require 'neap.launcher'
local series = require 'neap.base.series'
local text_table = require 'neap.base.text_table'
local topology = require 'neap.engine.topology'
local worker = require 'neap.policy.worker'

local ffi, C = lib.ffi, lib.C

local bench = { doc = 'Round trip from a rank to a policy in its worker process, and back.' }

bench.options = {
  ranks = { default = 32, min = 1, integer = true, doc = 'ranks that are planned for' },
  node_size = { default = 8, min = 1, integer = true, doc = 'ranks per node' },
  experts = { default = 16, min = 1, integer = true, doc = 'experts' },
  slots = { default = 4, min = 1, integer = true, doc = 'expert slots per rank' },
  repeats = { default = 20000, min = 100, integer = true, doc = 'round trips' },
}

local WARM_UP = 2000       -- round trips until Lua has compiled its loops
local PAUSE = 2e-3         -- seconds; after this the worker sleeps
local PAUSED_SHARE = 0.02  -- of the repeats are measured with a pause before each

local function open(p)
  local shape = topology.open {
    ranks = p.ranks, node_size = p.node_size, slots = p.slots, experts = p.experts,
  }
  local s = {
    worker = worker.open {
      file = launcher.home .. '/lua/neap/bench/policies/echo.lua', params = {}, topology = shape,
      layers = 1, seed = 1, deadline = 10,
    },
    load = ffi.new('int64_t[?]', p.ranks * p.experts),
    expert_of = ffi.new('int32_t[?]', shape.slots),
    tokens = ffi.new('int64_t[?]', p.ranks * shape.slots),
  }
  for i = 0, p.ranks * p.experts - 1 do s.load[i] = 1 + i * 7919 % 1000 end
  for i = 0, shape.slots - 1 do s.expert_of[i] = i % p.experts end
  return s
end

local function plan(s, step)
  s.worker:request(false, step + 1, 0, s.load, s.expert_of)
  return s.worker:next(true)
end

local function split(s, step)
  s.worker:split(step, 0, s.load, s.expert_of, s.tokens)
end

local function measure(s, count, pause, action)
  local times = series.open()
  for step = 1, count do
    if pause then launcher.sleep(PAUSE) end
    local start = C.neap_clock()
    action(s, step)
    times:add((C.neap_clock() - start) * 1e6)
  end
  return {
    mean = times:mean(), p50 = times:quantile(0.5), p95 = times:quantile(0.95),
    p99 = times:quantile(0.99), max = times:quantile(1),
  }
end

local ORDER = {
  'bench', 'machine', 'ranks', 'experts', 'slots', 'repeats', 'rows', 'round_trip_us',
  'round_trip_after_pause_us', 'split_us', 'mean', 'p50', 'p95', 'p99', 'max',
}

local function row(what, times)
  local cells = { what }
  for _, key in ipairs { 'mean', 'p50', 'p95', 'p99', 'max' } do
    cells[#cells + 1] = ('%.1f'):format(times[key])
  end
  return cells
end

--- args: the options by name. Prints a table, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local p = args.params
  local s = open(p)
  measure(s, WARM_UP, false, plan)
  measure(s, WARM_UP, false, split)
  local result = {
    machine = machine.processor(), round_trip_us = measure(s, p.repeats, false, plan),
    round_trip_after_pause_us = measure(s, math.ceil(p.repeats * PAUSED_SHARE), true, plan),
    split_us = measure(s, p.repeats, false, split),
  }
  s.worker:close()
  if args.json then
    print(json.results('bench', { bench = 'policy', ranks = p.ranks, experts = p.experts,
      slots = p.slots, repeats = p.repeats, rows = { result } }, ORDER))
    return
  end
  print(('%s: %d ranks, %d experts, %d slots per rank, %d round trips'):format(result.machine,
    p.ranks, p.experts, p.slots, p.repeats))
  print(text_table.format({ 'microseconds', 'mean', 'p50', 'p95', 'p99', 'max' }, {
    row('load out, layout in', result.round_trip_us),
    row('the same after a pause of 2 ms', result.round_trip_after_pause_us),
    row('counts out, split in', result.split_us),
  }))
end

return bench

-- SPDX-License-Identifier: Apache-2.0

--- neap bench plan: time of planners and splits on one thread, over cluster sizes.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local layouts = require 'neap.engine.layout'
local series = require 'neap.base.series'
local plan = require 'neap.engine.plan'
local splits = require 'neap.engine.split'
local text_table = require 'neap.base.text_table'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local bench = { doc = 'Time of planners and splits.' }

local NODE = 8           -- ranks per node
local DRIFT = 0.05       -- change of log loads from plan to plan
local LOADS = 16         -- loads that plans take in turn
local TOKENS = 1000      -- of a source rank for an expert, median
local LAYERS = 60       -- of a model: one thread's plans of a step are late if it is shorter
local MOST = 200         -- repetitions of one measurement

-- Ranks, experts, slots per rank, and the milliseconds that the published LAER planner needs.
local CASES = {
  { 32, 16, 4, 0.18 }, { 32, 8, 2, 0.11 },
  { 64, 32, 4, 0.38 }, { 256, 32, 4, 2.64 }, { 1024, 32, 4, 67.2 }, { 1024, 32, 16, 132 },
  { 1024, 256, 2, 372 }, { 1024, 256, 16, 545 }, { 4096, 256, 8 },
}

bench.options = {
  planners = {
    default = 'static,laer,eplb',
    doc = 'planners, each NAME or NAME:parameter=value',
  },
  rules = { default = 'lite,local,minimax', doc = 'rules of splits' },
  seconds = { default = 0.25, min = 0.001, max = 60, doc = 'a measurement takes at most' },
  most_ranks = { default = 4096, min = 1, integer = true, doc = 'leave larger cases out' },
}

--- "laer,neap:effort=0" -> { { text=, name=, params= } }, those that this build has.
local function parse_planners(text)
  local known, list = {}, {}
  for _, name in ipairs(plan.names()) do known[name] = true end
  for item in text:gmatch '[^,]+' do
    local name, parameter, value = item:match '^(%w+):?([%w_]*)=?([%d.]*)$'
    if not (name and known[name]) then
      errors.usage("no planner '%s'%s; known are %s", item, lib.hint(name or item, plan.names()),
        table.concat(plan.names(), ', '))
    end
    list[#list + 1] = {
      text = item, name = name,
      params = parameter ~= '' and { [parameter] = tonumber(value) } or {},
    }
  end
  return list
end

local function machine()
  for line in io.lines '/proc/cpuinfo' do
    local name = line:match '^model name%s*:%s*(.*)$'
    if name then return name end
  end
  return 'unknown'
end

--- Log-normal loads that drift from one to the next: doubles to plan on, and whole tokens.
local function make_loads(ranks, experts)
  local cells, list = ranks * experts, {}
  local popularity = ffi.new('double[?]', experts)
  for e = 0, experts - 1 do popularity[e] = C.neap_random_normal(1, 0, e) end
  for i = 1, LOADS do
    local load, tokens = ffi.new('double[?]', cells), ffi.new('int64_t[?]', cells)
    for e = 0, experts - 1 do
      popularity[e] = popularity[e] + DRIFT * C.neap_random_normal(2, i, e)
    end
    for k = 0, cells - 1 do
      local noise = C.neap_random_normal(3, i, k) / 2
      tokens[k] = TOKENS * math.exp(popularity[k % experts] + noise)
      load[k] = tonumber(tokens[k])
    end
    list[i] = { load = load, tokens = tokens }
  end
  return list
end

--- Calls f(i), i = 1, 2, …, for the given seconds; a series of what the calls took, less the first.
local function measure(seconds, f)
  local times, stop = series.open(), C.neap_clock() + seconds
  f(1)
  for i = 2, MOST do
    local start = C.neap_clock()
    f(i)
    local finish = C.neap_clock()
    times:add(finish - start)
    if finish > stop then break end
  end
  return times
end

local function summary(times, scale)
  return {
    p50 = times:quantile(0.5) * scale, p95 = times:quantile(0.95) * scale,
    mean = times:mean() * scale, count = times.count,
  }
end

--- Plans of drifting loads, each from the layout before.
local function time_planner(case, planner, seconds)
  local handle = plan.open(planner.name, case.topology, planner.params)
  local layout = layouts.open(case.topology)
  local times = measure(seconds, function(i)
    handle:plan(case.loads[i % LOADS + 1].load, i > 1 and layout or nil, i, layout)
  end)
  handle:close()
  return {
    planner = planner.text, ranks = case.ranks, experts = case.experts, slots = case.slots,
    published_ms = planner.name == 'laer' and case.published or nil, plan_ms = summary(times, 1e3),
  }
end

--- What one rank computes on the critical path: what is common, and its own row.
local function time_rule(case, rule, seconds)
  local handle, row = splits.open(case.topology, rule), ffi.new('int64_t[?]', case.topology.slots)
  local times = measure(seconds, function(i)
    handle:compute(case.layout, case.loads[i % LOADS + 1].tokens)
    handle:row(case.ranks / 2, row)
  end)
  handle:close()
  return {
    rule = rule, ranks = case.ranks, experts = case.experts, slots = case.slots,
    split_us = summary(times, 1e6),
  }
end

local function open_case(ranks, experts, slots, published)
  local case = {
    ranks = ranks, experts = experts, slots = slots, published = published,
    topology = topologies.open {
      ranks = ranks, node_size = NODE, slots = slots, experts = experts,
    },
    loads = make_loads(ranks, experts),
  }
  case.layout = plan.open('laer', case.topology):plan(case.loads[1].load)
  return case
end

local function run_all(args)
  local planners, results = parse_planners(args.planners), {}
  for _, entry in ipairs(CASES) do
    if entry[1] <= args.most_ranks then
      local case = open_case(unpack(entry))
      for _, planner in ipairs(planners) do
        results[#results + 1] = time_planner(case, planner, args.seconds)
      end
      for rule in args.rules:gmatch '[^,]+' do
        results[#results + 1] = time_rule(case, rule, args.seconds)
      end
    end
  end
  return results
end

local function print_table(results)
  local rows = {}
  for i, r in ipairs(results) do
    local time, unit = r.plan_ms or r.split_us, r.plan_ms and 'ms' or 'us'
    rows[i] = {
      r.planner or 'split ' .. r.rule, r.ranks, r.experts, r.slots, ('%.4g'):format(time.p50),
      ('%.4g'):format(time.p95), unit, r.plan_ms and ('%.0f'):format(1e3 / time.mean) or '',
      r.plan_ms and ('%.4g'):format(LAYERS * time.mean) or '',
      r.published_ms and ('%.4g'):format(r.published_ms) or '',
    }
  end
  print(text_table.format({ 'what', 'ranks', 'experts', 'slots', 'p50', 'p95', '', 'plans/s',
    LAYERS .. ' layers ms', 'published ms' }, rows))
end

function bench.run(args)
  local results = run_all(args.params)
  if args.json then
    print(json.results('bench', { bench = 'plan', machine = machine(), threads = 1,
      rows = results }, { 'bench', 'machine', 'threads', 'rows', 'planner', 'rule', 'ranks',
      'experts', 'slots' }))
  else
    print(machine() .. ', one thread, ' .. NODE .. ' ranks per node')
    print_table(results)
  end
end

return bench

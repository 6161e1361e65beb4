-- SPDX-License-Identifier: Apache-2.0

--- Recorded loads under a policy: it sees the loads up to step t - 1, answers with layouts for step
-- t, and then the exact counts of step t are split.

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local layouts = require 'neap.engine.layout'
local metrics = require 'neap.runs.metrics'
local series = require 'neap.base.series'
local session = require 'neap.policy.session'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local replay = {
  WINDOW = 5,    -- steps that warm up
  NODE_SIZE = 8, -- ranks per node, where neither the trace nor the caller says
}

local function mean_and_p95(values)
  return { mean = values:mean(), p95 = values:quantile(0.95) }
end

--- State of one policy's replay.
local function open_run(options)
  local t, topology = options.trace, options.topology
  local run = {
    options = options, topology = topology, balance = series.balance(),
    split_us = series.open(), changed = series.open(), before = {},
    load = ffi.new('int64_t[?]', t.ranks * t.experts), row = ffi.new('int64_t[?]', topology.slots),
    session = session.open {
      topology = topology, layers = t.layers, policy = options.policy, seed = options.seed or 0,
      deadline = options.deadline, strict = options.strict or false,
      in_process = options.in_process or false, trusted = options.trusted or false,
      wait = true, known = true,
    },
  }
  for layer = 0, t.layers - 1 do
    run.before[layer] = layouts.open(topology):copy(run.session:layout(layer))
  end
  return run
end

--- Splits the counts of a layer at a step: what one rank spends on the critical path.
local function split(run, step, layer)
  local start = C.neap_clock()
  local result = run.session:split(step, layer, run.load)
  result:row(step % run.topology.ranks, run.row)
  run.split_us:add((C.neap_clock() - start) * 1e6)
  return result:balance(), result
end

local function replay_layer(run, step, layer)
  run.options.trace:load(step, layer, run.load)
  run.session:plan_now(step, layer, run.load)
  local balance, result = split(run, step, layer)
  if run.options.recorder then run.options.recorder:balance(balance) end
  local now, before = run.session:layout(layer), run.before[layer]
  if step >= run.options.warm_up then
    run.balance:add(balance)
    run.changed:add(now:changed(before))
  end
  before:copy(now)
  if run.options.on_layer then run.options.on_layer(step, layer, now, balance, result) end
  run.session:record(step, layer, run.load)
end

--- Replays a trace under one policy. Options: trace, topology, policy (text as policy.resolve takes
-- it), and, all optional, warm_up (5, steps that are not scored), seed, deadline, strict,
-- in_process, trusted, on_step(step), recorder (of the run store), on_layer(step, layer, layout,
-- balance, split), which sees what was active. Returns the policy's row (neap.runs.metrics; its
-- steps are those that are scored), and the messages of its faults.
-- : table -> table
function replay.score(options)
  options.warm_up = options.warm_up or replay.WINDOW
  local run = open_run(options)
  for step = 0, options.trace.steps - 1 do
    run.session:advance(step)
    for layer = 0, options.trace.layers - 1 do replay_layer(run, step, layer) end
    if options.recorder then options.recorder:step(step, {}, run.session) end
    if options.on_step then options.on_step(step) end
  end
  local report, row = run.session:report(), run.balance:summary()
  for name, value in pairs(report) do row[name] = value end
  row.policy, row.seed = options.policy, options.seed or 0
  row.steps, row.ranks = options.trace.steps - options.warm_up, run.topology.ranks
  row.split_us, row.slots_changed = mean_and_p95(run.split_us), run.changed:mean()
  metrics.complete(row)
  run.session:close()
  if options.recorder then options.recorder:close(row) end
  return row, report.messages
end

local function list_of(value)
  return type(value) == 'number' and { value } or value
end

--- Topology that the options of a command ask for, for a trace. Raises USAGE.
-- : table, Trace -> Topology
function replay.open_topology(args, t)
  if (args.ranks or t.ranks) ~= t.ranks then
    errors.usage('--ranks is %d, but %s was recorded on %d ranks, and a replay has as many; record '
      .. 'one on %d (neap run RECIPE -n %d --trace=FILE), make one (neap trace synth FILE -n %d), '
      .. 'or leave --ranks out', args.ranks, t.path, t.ranks, args.ranks, args.ranks, args.ranks)
  end
  local slots = args.slots or tonumber(t.metadata.slots)
  if not slots then errors.usage('%s does not say how many slots a rank has; give --slots',
    t.path) end
  local size = args.node_size or tonumber(t.metadata.node_size) or replay.NODE_SIZE
  local ok, topology = pcall(topologies.open, {
    ranks = t.ranks, node_size = math.min(size, t.ranks), experts = t.experts, slots = slots,
    cost = list_of(args.cost), speed = list_of(args.speed),
  })
  if ok then return topology end
  errors.usage('%s', type(topology) == 'table' and topology.message or tostring(topology))
end

return replay

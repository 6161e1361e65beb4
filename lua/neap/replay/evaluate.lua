-- SPDX-License-Identifier: Apache-2.0

--- Replays a trace under policies and keeps what pictures in reports and notebooks need. One
-- moment, the same for all policies, is looked at closely: the step and layer where the trace is
-- hardest.

local lib = require 'neap.base.lib'
local replay = require 'neap.replay'
local series = require 'neap.base.series'

local ffi = lib.ffi

local evaluate = {}

--- Tokens by expert of a step and layer, as a C array, in out.
local function by_expert(t, step, layer, buffer, out)
  t:load(step, layer, buffer)
  ffi.fill(out, t.experts * 8)
  for r = 0, t.ranks - 1 do
    for e = 0, t.experts - 1 do out[e] = out[e] + tonumber(buffer[r * t.experts + e]) end
  end
  return out
end

local function hottest_share(counts, experts)
  local total, most = 0, 0
  for e = 0, experts - 1 do total, most = total + counts[e], math.max(most, counts[e]) end
  return total > 0 and most * experts / total or 1
end

--- The moment at which the hottest expert has most, from the first scored step on: step, layer, and
-- that expert's tokens in units of the mean expert's.
-- : Trace, integer -> table
function evaluate.hardest(t, first)
  local buffer, counts = ffi.new('int64_t[?]', t.ranks * t.experts), ffi.new('double[?]', t.experts)
  local found = { step = first, layer = 0, hottest = 0 }
  for step = first, t.steps - 1 do
    for layer = 0, t.layers - 1 do
      local share = hottest_share(by_expert(t, step, layer, buffer, counts), t.experts)
      if share > found.hottest then
        found.step, found.layer, found.hottest = step, layer, share
      end
    end
  end
  return found
end

--- Load of experts over steps in one layer: { value(expert, step) in units of the mean expert's,
-- most = the largest }.
-- : Trace, integer -> table
function evaluate.heat(t, layer)
  local buffer, counts = ffi.new('int64_t[?]', t.ranks * t.experts), ffi.new('double[?]', t.experts)
  local values, most = ffi.new('float[?]', t.steps * t.experts), 0
  for step = 0, t.steps - 1 do
    by_expert(t, step, layer, buffer, counts)
    local total = 0
    for e = 0, t.experts - 1 do total = total + counts[e] end
    for e = 0, t.experts - 1 do
      local value = total > 0 and counts[e] * t.experts / total or 0
      values[step * t.experts + e], most = value, math.max(most, value)
    end
  end
  return {
    most = most, layer = layer,
    value = function(expert, step) return values[step * t.experts + expert] end,
  }
end

--- Work of every rank under a split, tokens x cost / speed, and what its slots have of it, lists of
-- { expert =, work = (before the division) }.
-- : Topology, Layout, Split -> list of number, list of list
function evaluate.rank_work(topology, layout, split)
  local tokens, experts, work, slots = split:slot_tokens(), layout:array(), {}, {}
  for rank = 0, topology.ranks - 1 do
    local sum, held = 0, {}
    for slot = topology.first_slot[rank], topology.first_slot[rank + 1] - 1 do
      local own = tonumber(tokens[slot]) * topology.expert_cost[experts[slot]]
      sum = sum + own
      held[#held + 1] = { expert = experts[slot], work = own }
    end
    work[rank + 1], slots[rank + 1] = sum / topology.rank_speed[rank], held
  end
  return work, slots
end

local function copy_of(topology, array)
  local out = ffi.new('int32_t[?]', topology.slots)
  ffi.copy(out, array, topology.slots * 4)
  return out
end

--- Keeps the layouts of the largest change of a layer after warm-up.
local function watch_changes(topology, found)
  local last = {}
  return function(step, layer, layout)
    local before, array, changed = last[layer], layout:array(), 0
    if before and step >= found.first then
      for slot = 0, topology.slots - 1 do
        if before[slot] ~= array[slot] then changed = changed + 1 end
      end
    end
    if changed > (found.change and found.change.slots or 0) then
      found.change = { step = step, layer = layer, slots = changed,
        before = copy_of(topology, before), after = copy_of(topology, array) }
    end
    if before then
      ffi.copy(before, array, topology.slots * 4)
    else
      last[layer] = copy_of(topology, array)
    end
  end
end

--- Replays one policy. Options: trace, topology, policy, moment, warm_up, and others of
-- replay.score. Returns { row = the replay's row, steps = list of rows (neap.runs.metrics) that
-- have the balance of a step, work = list by rank at the moment, layout = experts at the moment,
-- change = { step, layer, slots, before, after } or nil, messages }.
-- : table -> table
function evaluate.policy(options)
  local topology, moment = options.topology, options.moment
  local found = { steps = {}, first = options.warm_up }
  local watch, last, of_step = watch_changes(topology, found), options.trace.layers - 1, nil
  options.on_layer = function(step, layer, layout, balance, split)
    of_step = layer == 0 and series.balance() or of_step
    of_step:add(balance)
    if layer == last then found.steps[step + 1] = of_step:summary() end
    if step == moment.step and layer == moment.layer then
      found.work = evaluate.rank_work(topology, layout, split)
      found.layout = copy_of(topology, layout:array())
    end
    watch(step, layer, layout)
  end
  found.row, found.messages = replay.score(options)
  return found
end

return evaluate

-- SPDX-License-Identifier: Apache-2.0

--- Tries a policy on a trace: is it valid, is it deterministic, how good is it, where is it worst?
--
--   local t = try_policy.open 'experiments/traces/e16k4.safetensors'
--   local result = t:run('mine.lua')
--   result.entry, result.messages, result.digest, result.worst
--   print(t:picture(result.worst))

local hash = require 'neap.base.hash'
local evaluate = require 'neap.replay.evaluate'
local replay = require 'neap.replay'
local topologies = require 'neap.engine.topology'
local trace = require 'neap.engine.trace'

local try_policy = {}

local Trial = {}
Trial.__index = Trial

local WARM_UP = 5

--- The trace's own slots and nodes.
function try_policy.open(path)
  local t = trace.read(path)
  return setmetatable({
    trace = t, name = path:match '([^/]*)%.%w+$' or path,
    topology = topologies.open { ranks = t.ranks, experts = t.experts,
      node_size = math.min(tonumber(t.metadata.node_size) or 8, t.ranks),
      slots = tonumber(t.metadata.slots) or math.ceil(t.experts / t.ranks) },
  }, Trial)
end

--- What a replay looks like: a digest of all layouts and balances, and the worst step.
local function observer(topology, warm_up)
  local seen = { digest = hash.START, worst = nil }
  function seen.on_layer(step, layer, layout, balance, split)
    seen.digest = hash.word(seen.digest, layout:hash_bits())
    seen.digest = hash.number(seen.digest, balance.max_work)
    if step < warm_up or (seen.worst and balance.imbalance <= seen.worst.fullest) then return end
    local work, slots = evaluate.rank_work(topology, layout, split)
    seen.worst = { step = step, layer = layer, fullest = balance.imbalance, work = work,
      slots = slots, inter_node = balance.inter_node / math.max(1, balance.tokens) }
  end
  return seen
end

--- Replays the trace under a policy (text as --policy takes it). options: seed, deadline, strict
-- (the first fault is raised, as POLICY), trusted.
function Trial:run(policy, options)
  options = options or {}
  local warm_up = math.min(WARM_UP, self.trace.steps - 1)
  local seen = observer(self.topology, warm_up)
  local entry, messages = replay.score {
    trace = self.trace, topology = self.topology, policy = policy, warm_up = warm_up,
    seed = options.seed or 1, deadline = options.deadline, strict = options.strict,
    trusted = options.trusted, on_layer = seen.on_layer,
  }
  return { entry = entry, messages = messages, digest = bit.tohex(seen.digest, 16),
    worst = seen.worst }
end

--- ---- the picture -------------------------------------------------------------------------------

local BARS = { '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█' }

local function fullest(work)
  local busiest, sum = 1, 0
  for i, value in ipairs(work) do
    sum = sum + value
    if value > work[busiest] then busiest = i end
  end
  return busiest, sum / #work
end

--- The experts of a rank by their work, heaviest first, in units of the mean rank.
local function shares(slots, mean)
  local list = { unpack(slots) }
  table.sort(list, function(a, b) return a.work > b.work end)
  local parts = {}
  for i = 1, math.min(4, #list) do
    parts[i] = ('expert %d: %.2f'):format(list[i].expert, list[i].work / mean)
  end
  return table.concat(parts, ', ')
end

--- A step's work by rank, in lines: a bar per rank, a line per node.
function Trial:picture(worst)
  local top, mean = fullest(worst.work)
  local lines = { ('worst step of %s: step %d, layer %d, imbalance %.4f'):format(self.name,
    worst.step, worst.layer, worst.fullest) }
  local node, bars = nil, {}
  local function finish()
    if node then lines[#lines + 1] = ('  node %-3d %s'):format(node, table.concat(bars)) end
  end
  for rank = 0, self.topology.ranks - 1 do
    if self.topology:node_of(rank) ~= node then
      finish()
      node, bars = self.topology:node_of(rank), {}
    end
    local level = worst.work[rank + 1] / worst.work[top] * #BARS
    bars[#bars + 1] = BARS[math.max(1, math.ceil(level))]
  end
  finish()
  lines[#lines + 1] = ('  the bar of the mean is %s; rank %d is fullest, %.2f x the mean (%s)')
    :format(BARS[math.max(1, math.ceil(mean / worst.work[top] * #BARS))], top - 1,
    worst.work[top] / mean, shares(worst.slots[top], mean))
  return table.concat(lines, '\n')
end

return try_policy

--- How do the planners compare, planning on history only?
--
-- Replays every trace it is given (or all of experiments/traces) under all policies and prints the
-- tables of docs/planning.md as Markdown. Slots per rank are as recorded, or from a name like x_c4.
--
--   ./neap lua experiments/planning/results.lua [TRACE…]
--
-- Costs: some 10 seconds for traces of 32 ranks, about two minutes for 256.

local names = require 'neap.runs.names'
local neap = require 'neap'
local sets = require 'planning.sets'

-- Every planner by the policy of its name, and other ways to use two of them.
local POLICIES = neap.plan.names()
for _, policy in ipairs { 'laer+minimax', 'neap:on=known' } do
  POLICIES[#POLICIES + 1] = policy
end

local function print_results(set)
  print(('\n**%s**: %s, %d layers, %d steps\n'):format(set.name, tostring(set.topology),
    set.trace.layers, set.trace.steps))
  print '| policy | imbalance | p95 | std % | inter-node % | plan ms | split us |'
  print '|---|---|---|---|---|---|---|'
  for _, policy in ipairs(POLICIES) do
    local r = neap.replay.score { trace = set.trace, topology = set.topology, policy = policy }
    print(('| %s | %.4f | %.4f | %.2f | %.2f | %.3f | %.1f |'):format(
      names.of { r }[1], r.imbalance.mean, r.imbalance.p95, r.std_percent,
      100 * r.inter_node_share, r.plan_ms.mean, r.split_us.mean))
  end
end

for _, set in ipairs(sets.open { ... }) do print_results(set) end

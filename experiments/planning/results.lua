--- How do the planners compare, planning on history only?
--
-- Replays every trace it is given (or all of experiments/traces) under all policies and prints the
-- tables of docs/planning.md as Markdown. Slots a rank are as recorded, or from a name like x_c4.
--
--   ./neap lua experiments/planning/results.lua [TRACE…]
--
-- Costs: seconds for traces of 32 ranks, about two minutes for 256.

local neap = require 'neap'
local launcher = require 'neap.launcher'

local POLICIES = { 'static', 'random', 'eplb', 'flexmoe', 'laer', 'laer+minimax', 'llep', 'moonep',
  'ultraep', 'fastermoe', 'neap', 'oracle+minimax:planner=neap' }

local function shipped()
  local files = {}
  for path in io.popen(('ls %s/experiments/traces/*.safetensors %s/experiments/traces/*.csv.gz '
    .. '2>/dev/null'):format(launcher.home, launcher.home)):lines() do
    files[#files + 1] = path
  end
  return files
end

local function topology_of(trace)
  local slots = tonumber(trace.metadata.slots or trace.path:match '_c(%d+)%.')
  local node_size = tonumber(trace.metadata.node_size or 8)
  return neap.topology.open { ranks = trace.ranks, experts = trace.experts, slots = slots,
    node_size = math.min(node_size, trace.ranks) }
end

local function print_results(path)
  local trace = neap.trace.open(path)
  local topology = topology_of(trace)
  print(('\n**%s**: %s, %d layers, %d steps\n'):format(path:match '[^/]*$', tostring(topology),
    trace.layers, trace.steps))
  print '| policy | imbalance | p95 | std % | inter-node % | plan ms | split us |'
  print '|---|---|---|---|---|---|---|'
  for _, policy in ipairs(POLICIES) do
    local r = neap.replay.score { trace = trace, topology = topology, policy = policy }
    print(('| %s%s | %.4f | %.4f | %.2f | %.2f | %.3f | %.1f |'):format(policy,
      r.bound and ' (bound)' or '', r.imbalance.mean, r.imbalance.p95, r.std_percent,
      100 * r.inter_node_share, r.plan_ms.mean, r.split_us.mean))
  end
end

local files = select('#', ...) > 0 and { ... } or shipped()
for _, path in ipairs(files) do print_results(path) end

-- SPDX-License-Identifier: Apache-2.0

--- Does neap that knows what a token across nodes costs give the shortest steps?
--
-- Prints, as Markdown, the simulated time of a step under neap, as it is and with what the cluster
-- says (far_price=cluster), under late, and the best of the other policies on history: for the
-- traces of experiments/traces, or those that are given, on the machines of two clusters, and with
-- a quarter of their uplinks. Slots per rank and nodes are as recorded, or as said behind the name.
--
--   ./neap lua experiments/planning/step_times.lua [TRACE | TRACE:SLOTS:NODE_SIZE …]
--
-- Costs: about a minute of one core for the traces that come with Neap.

local clusters = require 'neap.simulate.cluster'
local launcher = require 'neap.launcher'
local suite = require 'neap.replay.suite'
local suite_sets = require 'neap.replay.suite_sets'

local OURS = { 'neap', 'neap:far_price=cluster', 'late', 'late:far_price=cluster' }
local OTHERS = { 'static', 'static+minimax', 'laer', 'laer+minimax', 'flexmoe', 'flexmoe+minimax',
  'eplb', 'eplb+minimax', 'hot', 'smooth', 'smooth+minimax', 'lplb', 'moonep', 'ultraep', 'llep',
  'maxtext' }
local SHARES = { 1, 0.25 } -- of the uplink
local STEPS, WARM_UP = 25, 5

-- Slots per rank and ranks per node where a file does not say.
local SHIPPED = { 'moe_473m.csv.gz:10:4', 'quickstart.safetensors', 'esft_switch.csv.gz:10:4',
  'text_e16.csv.gz:4:8', 'text_e64.csv.gz:4:8', 'e16k4.safetensors', 'e8k2.safetensors',
  'wide.safetensors' }

local function open(text, cluster, share)
  local path, slots, node_size = text:match '^(.-):(%d+):(%d+)$'
  local set = suite_sets.trace(path or text, { cluster }, { slots = tonumber(slots),
    node_size = tonumber(node_size), steps = STEPS })[1]
  set.cluster = clusters.describe(cluster, { ranks = set.ranks, node_size = set.node_size,
    uplink = share * clusters.describe(cluster).uplink })
  return set
end

local function measure(set, policy)
  return suite.measure(set, policy, { seed = 1, warm_up = WARM_UP })
end

local function show(row)
  return ('%.1f (%.3f, %.1f %%)'):format(row.step_ms, row.imbalance.mean,
    100 * row.inter_node_share)
end

--- One line. Returns the time of the second of ours over the best of the others'.
local function line(text, cluster, share)
  local set, cells = open(text, cluster, share), {}
  cells[1], cells[2] = set.name, cluster .. (share < 1 and ' / ' .. 1 / share or '')
  local priced
  for i, policy in ipairs(OURS) do
    local row = measure(set, policy)
    if i == 2 then priced = row end
    cells[#cells + 1] = show(row)
  end
  local best
  for _, policy in ipairs(OTHERS) do
    local row = measure(set, policy)
    if not best or row.step_ms < best.step_ms then best = row end
  end
  cells[#cells + 1] = best.policy .. ' ' .. show(best)
  print('| ' .. table.concat(cells, ' | ') .. ' |')
  io.stdout:flush()
  return priced.step_ms / best.step_ms
end

local texts = { ... }
if #texts == 0 then
  for i, name in ipairs(SHIPPED) do
    texts[i] = ('%s/experiments/traces/%s'):format(launcher.home, name)
  end
end
print('| set | cluster | ' .. table.concat(OURS, ' | ') .. ' | best of the others |')
print('|---|---|' .. ('---|'):rep(#OURS + 1))
local sets, behind, worst = 0, 0, 0
for _, text in ipairs(texts) do
  for _, cluster in ipairs(suite_sets.CLUSTERS) do
    for _, share in ipairs(SHARES) do
      local ratio = line(text, cluster, share)
      sets, behind = sets + 1, behind + (ratio > 1.01 and 1 or 0)
      worst = math.max(worst, ratio)
    end
  end
end
print(('\nMilliseconds of a step (imbalance, tokens across nodes). Of %d cases %s is more than 1 '
  .. '%% slower than the best of the others in %d; at most %.3f times as slow.'):format(sets,
  OURS[2], behind, worst))

-- SPDX-License-Identifier: Apache-2.0

--- How do the balancers compare, each in its own terms?
--
-- Measures every policy on the traces of experiments/traces, recorded and synthetic, or on those
-- that it is given, as neap suite does, and prints the tables of docs/planning.md as Markdown:
-- balance, tokens across nodes, bytes that travel late, and the simulated time of a step on the
-- machines of two clusters. Slots per rank and nodes are as recorded, or as said behind the name.
--
--   ./neap lua experiments/planning/results.lua [TRACE | TRACE:SLOTS:NODE_SIZE …]
--
-- Costs: about 5 minutes of one core for the traces that come with Neap. Rows are kept in
-- planning-results.jsonl; the same command goes on where it stopped.

local launcher = require 'neap.launcher'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local suite = require 'neap.replay.suite'
local suite_sets = require 'neap.replay.suite_sets'

local ROWS = 'planning-results.jsonl'

-- Recorded first; slots per rank and ranks per node where a file does not say.
local SHIPPED = { 'moe_473m.csv.gz:10:4', 'quickstart.safetensors', 'esft_switch.csv.gz:10:4',
  'text_e16.csv.gz:4:8', 'text_e64.csv.gz:4:8', 'e16k4.safetensors', 'e8k2.safetensors',
  'wide.safetensors' }

-- Of the first cluster's row, and of both.
local COLUMNS = { 'imbalance', 'imbalance_max', 'inter_node_share', 'bytes_late', 'plan_ms' }
local TIMES = { 'step_ms', 'share_of_balanced' }

local function cell(name, row)
  local metric = metrics.find(name)
  local value = metrics.value(metric, row)
  return value and metrics.show(metric, value) or ''
end

--- One line: a policy of a name on both clusters.
local function line(name_of_policy, row, other)
  local cells = { name_of_policy }
  for _, name in ipairs(COLUMNS) do cells[#cells + 1] = cell(name, row) end
  for _, of in ipairs { row, other } do
    for _, name in ipairs(TIMES) do cells[#cells + 1] = cell(name, of) end
  end
  return '| ' .. table.concat(cells, ' | ') .. ' |'
end

local function print_set(text)
  local path, slots, node_size = text:match '^(.-):(%d+):(%d+)$'
  local sets = suite_sets.trace(path or text, suite_sets.CLUSTERS, { slots = tonumber(slots),
    node_size = tonumber(node_size), steps = math.huge })
  local options = { seed = 1, warm_up = suite_sets.WARM_UP, path = ROWS }
  local rows, others = suite.run({ sets[1] }, suite.policies(), options),
    suite.run({ sets[2] }, suite.policies(), options)
  local set = sets[1]
  print(('\n**%s**: %d ranks in nodes of %d, %d slots for %d experts, %d layers, %d steps\n')
    :format(set.name, set.ranks, set.node_size, set.slots * set.ranks, set.experts,
    set.open().layers, set.steps - options.warm_up))
  print('| policy | imbalance | worst | inter-node % | late sent | plan ms | A100 ms | % '
    .. '| H100 ms | % |')
  print '|---|---|---|---|---|---|---|---|---|---|'
  for i, name in ipairs(names.of(rows)) do print(line(name, rows[i], others[i])) end
end

local texts = { ... }
if #texts == 0 then
  for i, name in ipairs(SHIPPED) do
    texts[i] = ('%s/experiments/traces/%s'):format(launcher.home, name)
  end
end
for _, text in ipairs(texts) do print_set(text) end

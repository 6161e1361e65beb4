-- SPDX-License-Identifier: Apache-2.0

--- neap suite: all policies on the workloads of the public token-imbalance benchmark and on traces.

local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local policy_names = require 'neap.runs.names'
local policies = require 'neap.policy'
local progress = require 'neap.base.progress'
local suite = require 'neap.replay.suite'
local suite_sets = require 'neap.replay.suite_sets'
local text_table = require 'neap.base.text_table'
local workloads = require 'neap.engine.workloads'

local command = { doc = 'Compare all policies on the workloads W0 to W7 and on traces.' }

command.examples = [[
Examples:
  neap suite --quick                                      seconds: few ranks, few steps
  neap suite                                              hours; the same command goes on
  neap suite loads.csv.gz --slots 4 --node-size 8 --workloads none --policy laer --policy mine.lua
  neap suite --experts 64 --workloads W1,W6 --clusters a100x32 --json
A set's rows begin with force-balanced: every expert with as many tokens, in static layouts without
slots to spare, or neap's where slots cannot be shared out evenly. Shares of balanced are its time
over a policy's: above 100 % are policies that send or restore less. Then plain EP, with experts
that stay whole at home, as they do for 'POLICY, resident'. Rows are kept in FOLDER/rows.jsonl.]]

-- The metrics of a table, in this order.
local COLUMNS = { 'imbalance', 'imbalance_max', 'inter_node_share', 'bytes_late', 'plan_ms',
  'step_ms', 'share_of_balanced' }

local QUICK = { clusters = { { name = 'a100x8', ranks = 8 } }, experts = { 8, 64 }, tokens = 256,
  steps = 6, warm_up = 2 }
local FULL = { tokens = 8192, steps = 17, trace_steps = 45, warm_up = suite_sets.WARM_UP }

local function list(text)
  local items = {}
  for item in text:gmatch '[^,]+' do items[#items + 1] = item end
  return items
end

local function numbers(text)
  local items = list(text)
  for i, item in ipairs(items) do
    local number, why = arguments.whole('--experts', 1, 2 ^ 20)(item)
    if not number then return nil, why end
    items[i] = number
  end
  return items
end

function command.options(parser)
  parser:argument('traces', 'recorded loads: safetensors, or CSV, plain or gzipped')
    :args '*':argname '<trace>'
  parser:option('--workloads', 'W0 to W7, or none (default: all)'):convert(list)
  parser:option('--experts', 'of the workloads (default: 8,64,128,256)'):convert(numbers)
  parser:option('--clusters', 'names or Lua files; a trace is timed on their machines, in its own '
    .. 'number (default: a100x32,h100x256)'):convert(list)
  arguments.policies(parser, 'all')
  parser:option('--slots', 'of the traces (default: as recorded)')
    :convert(arguments.whole('--slots', 1, 2 ^ 20))
  parser:option('--node-size', 'of the traces (default: as recorded, else 8)')
    :convert(arguments.whole('--node-size', 1))
  parser:option('--steps', 'steps that are scored (default: 12 of workloads, at most 40 of traces)')
    :convert(arguments.whole('--steps', 1))
  parser:option('--seed', 'of workloads and policies'):convert(arguments.whole('--seed', 0))
    :default '1'
  parser:option('--folder', 'for the workloads and the rows'):default 'suite'
  parser:flag('--quick', 'on 8 ranks with few tokens and steps')
  parser:flag('--json', 'results as JSON')
end

--- Clusters of the workloads: { name, ranks }.
local function clusters_of(args, names)
  if args.quick and not args.clusters then return QUICK.clusters end
  local clusters, found = require 'neap.simulate.cluster', {}
  for i, name in ipairs(names) do
    found[i] = { name = name, ranks = clusters.describe(name).ranks }
  end
  return found
end

local function workloads_of(args)
  if args.workloads and args.workloads[1] == 'none' then return {} end
  for _, name in ipairs(args.workloads or {}) do
    if not workloads.DOCS[name] then
      errors.usage("--workloads: unknown workload '%s'%s; there are none, or of %s", name,
        lib.hint(name, workloads.NAMES), table.concat(workloads.NAMES, ', '))
    end
  end
  return args.workloads or workloads.NAMES
end

local function sets_of(args, size)
  local names = args.clusters or suite_sets.CLUSTERS
  local sets = suite_sets.workloads(workloads_of(args), args.experts or size.experts
    or suite_sets.EXPERTS, clusters_of(args, names), {
    steps = (args.steps and args.steps + size.warm_up) or size.steps, seed = args.seed,
    tokens = size.tokens, folder = args.folder })
  for _, path in ipairs(args.traces) do
    for _, set in ipairs(suite_sets.trace(path, names, { slots = args.slots,
      node_size = args.node_size,
      steps = (args.steps and args.steps + size.warm_up) or size.trace_steps or size.steps })) do
      if set.steps <= size.warm_up then
        errors.usage('%s has %d steps; %d are needed to warm up and one to score', path, set.steps,
          size.warm_up)
      end
      sets[#sets + 1] = set
    end
  end
  if #sets == 0 then errors.usage 'nothing to do: no workload and no trace' end
  return sets
end

local function cells(rows)
  local heading, lines, names = { 'policy' }, {}, policy_names.of(rows)
  for column, name in ipairs(COLUMNS) do
    local metric = metrics.find(name)
    heading[column + 1] = metric.title
    for i, row in ipairs(rows) do
      lines[i] = lines[i] or { names[i] }
      local value = metrics.value(metric, row)
      lines[i][column + 1] = value and metrics.show(metric, value) or false
    end
  end
  return heading, lines
end

local function print_tables(sets, rows, count)
  for i, set in ipairs(sets) do
    local of_set = { unpack(rows, (i - 1) * count + 1, i * count) }
    print(('%s%s%s: %d ranks in nodes of %d, %d slots for %d experts, %d steps, on machines of %s')
      :format(i > 1 and '\n' or '', set.name, set.doc and (' (%s)'):format(set.doc) or '',
      set.ranks, set.node_size, set.slots * set.ranks, set.experts, of_set[2].steps, set.cluster))
    print(text_table.format(cells(of_set)))
  end
end

function command.run(args)
  local size, texts = args.quick and QUICK or FULL, #args.policy > 0 and args.policy or nil
  texts = texts or suite.policies()
  for _, text in ipairs(texts) do policies.resolve(suite.policy_of(text)) end
  lib.check(lib.C.neap_folder_make(args.folder))
  local sets = sets_of(args, size)
  local bar = progress.open(#sets * (2 + #texts), 'suite')
  local rows = suite.run(sets, texts, { seed = args.seed, warm_up = size.warm_up,
    path = args.folder .. '/rows.jsonl', on_row = function(done, _, row)
      bar:update(done, ('%s on %s, %s'):format(row.set, row.cluster, row.policy))
    end })
  bar:close()
  if not args.json then return print_tables(sets, rows, 2 + #texts) end
  print(json.results('suite', { rows = rows, seed = args.seed, warm_up = size.warm_up },
    { 'seed', 'warm_up', 'rows', 'set', unpack(metrics.keys()) }))
end

return command

-- SPDX-License-Identifier: Apache-2.0

--- The metrics: what runs, replays and simulations are told, stored and compared by. One record of
-- the list below is one metric, and everything that shows metrics walks over the list: tables,
-- JSON, the columns of the run store, comparisons, charts, reports. A new one is a record here and
-- a measurement where rows are made.
--
-- A row is the summary of one policy, in the same shape whatever it was measured by; the row of a
-- step, which the recorder stores, has that shape too. Shares are of 1.
--   { policy = (text, as it was given), name = (what it calls itself, with the text's split and
--     parameters), seed =, steps =, ranks =, step_ms =, ideal_ms =, tokens_per_second =,
--     ideal_tokens_per_second =, imbalance = { mean, p50, p95, max }, std_percent =,
--     share_of_ideal =, utilization =, exposed =, inter_node_share =,
--     bytes_per_step = { tokens, unshard, reduce }, plan_ms = { mean, p95 },
--     split_us = { mean, p95 }, slots_changed =, faults =, late =, loss =, bits_per_byte = }
-- and, where they are: simulated = true, cluster, model (of steps that took their time on a
-- described cluster), in_force (of a policy that failed: the share of its splits for which its own
-- answers were in force; session.lua), plans_on (what a policy plans on besides the history, or
-- instead: 'current', 'both' or 'known'), messages (of faults), losses (by step), digest,
-- eval_losses and eval_steps (of the steps after which they were measured), tokenised (tokens are
-- no bytes).
-- A metric that was not measured is absent.
--
-- Fields of a record:
--   name        in options, JSON and SQL
--   title       heading in tables
--   doc         how to read it
--   path        where a row has it (default: under its name): one or two keys
--   derive      function(row): it follows from others, wherever these stand in the list; complete()
--               puts it into rows, of steps too. Nil where it does not follow
--   format      of the shown value: for string.format, or a function
--   scale       of the shown value to the row's (100: a share is shown in percent)
--   better      'lower' or 'higher'
--   ideal       what no policy beats: a number, or function(rows)
--   tables      the only tables that show it, words of 'run replay simulate try report' (default:
--               all whose rows have it; '': none, it is of steps alone)
--   compared    whether neap compare shows it unless it is asked for others
--   stored      whether every step has it: a column of the store's table of steps
--   curve       { title, unit } of its chart over the steps, for those that are stored
--   tile        what stands below the best policy's value in a report
--   ranking     policies can be ranked by it: words for the best one, and for better and worse
--   formerly    a name that it had

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'
local names_of = require('neap.runs.names').of
local text_table = require 'neap.base.text_table'

local metrics = {}

local LN2 = math.log(2)

--- ---- ideals and what follows from other metrics -----------------------------------------------

--- Of all rows that have a field: what choose makes of the list, nil without any.
local function over_rows(field, choose)
  return function(rows)
    local list = {}
    for _, row in ipairs(rows) do list[#list + 1] = row[field] end
    return #list > 0 and choose(list) or nil
  end
end

local function mean(list)
  local sum = 0
  for _, value in ipairs(list) do sum = sum + value end
  return sum / #list
end

local function least(list)
  return math.min(unpack(list))
end

--- The time that perfect balance with nothing exposed would take / the time. What replays lack in
-- time they have in balance: the mean rank's work over the fullest one's.
local function share_of_ideal(row)
  if row.step_ms and row.ideal_ms then return row.ideal_ms / row.step_ms end
  local imbalance = row.imbalance and row.imbalance.mean
  return imbalance and 1 / imbalance
end

--- ---- the list ---------------------------------------------------------------------------------

metrics.list = {
  { name = 'tokens_per_second', title = 'tokens/s', format = '%.0f', better = 'higher',
    ideal = over_rows('ideal_tokens_per_second', mean), tables = 'run report', compared = true,
    stored = true, curve = { 'Throughput', 'tokens per second' },
    ranking = { best = '%s is fastest: %s tokens per second%s.', 'faster', 'slower' },
    doc = 'tokens trained on per second' },
  { name = 'step_ms', formerly = 'step_seconds', title = 'step ms', format = '%.2f',
    better = 'lower', ideal = over_rows('ideal_ms', least), tables = 'simulate report',
    compared = true, doc = 'time of a step, measured or predicted',
    ranking = { best = '%s is fastest: %s ms per step%s.', 'less time per step',
      'more time per step' } },
  { name = 'cluster_step_ms', title = 'simulated step ms', format = '%.1f', better = 'lower',
    tables = 'run report', doc = 'predicted time of a step on a described cluster, with the '
    .. "routing, layouts and splits of this training, of every tenth step" },
  { name = 'seconds', title = 's', format = '%.4g', better = 'lower', tables = '', stored = true,
    doc = "time of one step: by rank 0's clock, or simulated" },
  { name = 'imbalance', path = { 'imbalance', 'mean' }, title = 'imbalance', format = '%.4f',
    better = 'lower', ideal = 1, compared = true, stored = true,
    curve = { 'Imbalance', 'largest work of a rank / mean' },
    ranking = { best = '%s balances best: the fullest rank does %s times the mean%s.',
      'less imbalance', 'more imbalance' },
    doc = 'largest work of a rank / mean work (tokens x cost / speed), mean over layers, steps' },
  { name = 'imbalance_p50', path = { 'imbalance', 'p50' }, title = 'p50', format = '%.4f',
    better = 'lower', ideal = 1, tables = 'replay', doc = 'median of the imbalance' },
  { name = 'imbalance_p95', path = { 'imbalance', 'p95' }, title = 'p95', format = '%.4f',
    better = 'lower', ideal = 1, doc = '95 % quantile of the imbalance' },
  { name = 'imbalance_max', path = { 'imbalance', 'max' }, title = 'max', format = '%.3f',
    better = 'lower', ideal = 1, tables = 'replay report', stored = true,
    doc = 'the largest imbalance' },
  { name = 'std_percent', title = 'std %', format = '%.2f', better = 'lower', ideal = 0,
    stored = true, doc = "standard deviation of the ranks' work, % of the mean" },
  { name = 'share_of_ideal', title = '% of ideal', format = '%.1f', scale = 100,
    better = 'higher', ideal = 1, derive = share_of_ideal, tables = 'run simulate report',
    compared = true, tile = 'of the ideal', doc = 'time with perfect balance and nothing exposed '
    .. '/ time; of replays, the share that balance allows' },
  { name = 'share_of_balanced', title = '% of balanced', format = '%.1f', scale = 100,
    better = 'higher', tables = 'run simulate report', doc = 'time of the same steps if every '
    .. 'expert got as many tokens (force-balanced), under static layouts without slots to spare, '
    .. '/ time' },
  { name = 'utilization', title = 'utilization %', format = '%.1f', scale = 100,
    better = 'higher', ideal = 1, tables = 'simulate report', stored = true,
    doc = 'share of a step in which ranks compute' },
  { name = 'exposed', title = 'exposed %', format = '%.1f', scale = 100, better = 'lower',
    ideal = 0, stored = true, curve = { 'Exposed communication', '% of the step' },
    doc = 'share of a step in which ranks wait for communication' },
  { name = 'inter_node_share', title = 'inter-node %', format = '%.2f', scale = 100,
    better = 'lower', ideal = 0, compared = true, stored = true,
    curve = { 'Tokens that cross nodes', '% of the routed tokens' },
    tile = 'of its tokens cross nodes',
    doc = "routed tokens that are computed on another node than their source's / all" },
  { name = 'bytes_tokens', path = { 'bytes_per_step', 'tokens' }, title = 'tokens sent',
    format = text_table.bytes, better = 'lower', tables = 'run', stored = true,
    doc = 'bytes of tokens that all ranks send per step' },
  { name = 'bytes_unshard', path = { 'bytes_per_step', 'unshard' }, title = 'unshard',
    format = text_table.bytes, better = 'lower', tables = 'run', stored = true,
    doc = 'bytes of parameters that all ranks send per step' },
  { name = 'bytes_reduce', path = { 'bytes_per_step', 'reduce' }, title = 'reduce',
    format = text_table.bytes, better = 'lower', tables = 'run', stored = true,
    doc = 'bytes of gradients that all ranks send per step' },
  { name = 'bytes_late', path = { 'bytes_per_step', 'late' }, title = 'late sent',
    format = text_table.bytes, better = 'lower', stored = true,
    doc = 'bytes of parameters that all ranks send after the counts are known, per step' },
  { name = 'fp8_unshard', title = 'FP8 unshard %', format = '%.0f', scale = 100, better = 'higher',
    tables = 'run report', stored = true, curve = { 'Experts in FP8', '% of the layers' },
    doc = 'layers whose experts travel in FP8 (--unshard, or the policy), % of all' },
  { name = 'fp8_dispatch', title = 'FP8 tokens %', format = '%.0f', scale = 100,
    better = 'higher', tables = 'run report', stored = true,
    curve = { 'Tokens in FP8', '% of the layers' },
    doc = 'layers whose tokens travel to experts in FP8 (--dispatch, or the policy), % of all' },
  { name = 'late_experts', title = 'late experts', format = '%.1f', better = 'lower', ideal = 0,
    stored = true,
    doc = 'experts that travel after the counts are known, of all ranks, per layer' },
  { name = 'late_wait_ms', path = { 'exposed_ms', 'late' }, title = 'late wait ms',
    format = '%.3f', better = 'lower', ideal = 0,
    doc = 'time that ranks wait for them, mean over ranks, per step' },
  { name = 'plan_ms', path = { 'plan_ms', 'mean' }, title = 'plan ms', format = '%.3f',
    better = 'lower', stored = true, doc = 'time of a plan, off the critical path' },
  { name = 'plan_ms_p95', path = { 'plan_ms', 'p95' }, title = 'p95', format = '%.3f',
    better = 'lower', tables = 'replay try', doc = '95 % quantile of plans' },
  { name = 'split_us', path = { 'split_us', 'mean' }, title = 'split us', format = '%.1f',
    better = 'lower', stored = true, doc = 'time of a split, on the critical path' },
  { name = 'split_us_p95', path = { 'split_us', 'p95' }, title = 'p95', format = '%.1f',
    better = 'lower', tables = 'replay try', doc = '95 % quantile of splits' },
  { name = 'slots_changed', title = 'slots changed', format = '%.1f', better = 'lower', ideal = 0,
    stored = true, doc = 'slots that get another expert, per step' },
  { name = 'faults', title = 'faults', format = '%d', better = 'lower', stored = true,
    doc = 'errors of the policy' },
  { name = 'late', title = 'late', format = '%d', better = 'lower', stored = true,
    doc = 'plans used a step late' },
  { name = 'memory_lean', path = { 'memory', 'lean' }, title = 'lean GB', format = '%.1f',
    scale = 1e-9, better = 'lower', tables = 'simulate report', doc = 'memory that a rank needs '
    .. 'for the simulated order of work, without anything that is not needed' },
  { name = 'memory_engine', path = { 'memory', 'engine' }, title = 'engine GB', format = '%.1f',
    scale = 1e-9, better = 'lower', tables = 'simulate report', doc = 'memory that a rank of the '
    .. 'engine would need for such a training, as --dry-run estimates it' },
  { name = 'loss', title = 'loss', format = '%.4f', better = 'lower', stored = true,
    tables = 'run report', curve = { 'Loss', 'nats per token' },
    doc = 'nats per token (of texts: per byte), mean of the last tenth of the steps' },
  { name = 'bits_per_byte', title = 'bits/byte', format = '%.3f', better = 'lower',
    derive = function(row) return not row.tokenised and row.loss and row.loss / LN2 or nil end,
    doc = 'the loss in bits, where tokens are bytes' },
  { name = 'eval_loss', title = 'val loss', format = '%.4f', better = 'lower', stored = true,
    tables = 'run report', curve = { 'Validation loss', 'nats per token' },
    doc = 'loss of held-out tokens (--eval-every), nats per token, the last one' },
}

--- ---- rows -------------------------------------------------------------------------------------

--- The value of a metric in a row, or nil.
function metrics.value(metric, row)
  local value = row
  for _, key in ipairs(metric.path or { metric.name }) do
    value = type(value) == 'table' and value[key] or nil
  end
  return tonumber(value)
end

--- All of them: name = value.
function metrics.values(row)
  local values = {}
  for _, metric in ipairs(metrics.list) do values[metric.name] = metrics.value(metric, row) end
  return values
end

--- Gives a row the value of a metric.
function metrics.put(metric, row, value)
  local path = metric.path or { metric.name }
  if #path == 2 then
    row[path[1]] = row[path[1]] or {}
    row = row[path[1]]
  end
  row[path[#path]] = value
end

--- A row of values by name; what is no metric stays as it is.
function metrics.nest(values)
  local row, seen = {}, {}
  for _, metric in ipairs(metrics.list) do
    seen[metric.name] = true
    if values[metric.name] then metrics.put(metric, row, values[metric.name]) end
  end
  for name, value in pairs(values) do
    if not seen[name] then row[name] = value end
  end
  return row
end

--- Puts what follows from other metrics into a row of a policy or of a step, which is returned,
-- in whatever order the list has a metric and those that it follows from.
function metrics.complete(row)
  local found = false
  for _, metric in ipairs(metrics.list) do
    if metric.derive and metrics.value(metric, row) == nil then
      local value = metric.derive(row)
      if value then metrics.put(metric, row, value) end
      found = found or metrics.value(metric, row) ~= nil
    end
  end
  return found and metrics.complete(row) or row
end

--- A row as earlier versions have stored it, in today's shape.
function metrics.upgrade(row)
  if type(row.imbalance) == 'number' then
    row.imbalance = type(row.spread) == 'table' and row.spread or { mean = row.imbalance }
    row.spread = nil
  end
  row.step_ms = row.step_ms or row.step_seconds and 1e3 * row.step_seconds
  row.step_seconds = nil
  row.plans_on = row.plans_on or row.bound and 'known' or row.late_slots and 'both' or nil
  row.bound, row.late_slots = nil, nil
  return metrics.complete(row)
end

--- Keys of rows in the order in which JSON has them.
function metrics.keys()
  local keys = { 'trace', 'policy', 'name', 'seed', 'steps', 'ranks', 'simulated', 'cluster',
    'model', 'schedule', 'experts', 'plans_on', 'in_force', 'fits' }
  for _, metric in ipairs(metrics.list) do
    for _, key in ipairs(metric.path or { metric.name }) do keys[#keys + 1] = key end
  end
  return keys
end

--- ---- names ------------------------------------------------------------------------------------

--- Names of the columns that a step has in the store.
function metrics.columns()
  local names = {}
  for _, metric in ipairs(metrics.list) do
    if metric.stored then names[#names + 1] = metric.name end
  end
  return names
end

--- The metric of a name. Raises USAGE.
function metrics.find(name)
  local names = {}
  for _, metric in ipairs(metrics.list) do
    if metric.tables ~= '' then
      if metric.name == name or metric.formerly == name then return metric end
      names[#names + 1] = metric.name
    end
  end
  errors.usage("unknown metric '%s'%s; there are: %s", name, lib.hint(name, names),
    table.concat(names, ', '))
end

--- All names that find takes, a line each, with how to read them.
function metrics.help()
  local lines = {}
  for _, metric in ipairs(metrics.list) do
    if metric.tables ~= '' then
      lines[#lines + 1] = ('  %-18s%s%s'):format(metric.name, metric.compared and '*' or ' ',
        metric.doc)
    end
  end
  return table.concat(lines, '\n')
end

--- ---- tables -----------------------------------------------------------------------------------

--- A value of a metric as text.
function metrics.show(metric, value)
  local shown = (metric.scale or 1) * value
  return type(metric.format) == 'function' and metric.format(shown) or metric.format:format(shown)
end

local function has(list, metric)
  for _, values in ipairs(list) do
    if values[metric.name] then return true end
  end
  return false
end

--- The metrics that a table (run, replay, simulate, try, report) shows, in order. list: what
-- values() gave of the rows; a metric that none of them has is left out.
function metrics.shown(table_name, list)
  local found = {}
  for _, metric in ipairs(metrics.list) do
    local here = not metric.tables
      or (' ' .. metric.tables .. ' '):find(' ' .. table_name .. ' ', 1, true)
    if here and has(list, metric) then found[#found + 1] = metric end
  end
  return found
end

--- What no policy beats in the circumstances of rows, or nil.
function metrics.ideal(metric, rows)
  if type(metric.ideal) == 'function' then return metric.ideal(rows) end
  return metric.ideal
end

--- Heading and cells of a table of rows: the policy, its metrics, and last the ideal.
function metrics.cells(table_name, rows)
  local values, heading, lines, ideal = {}, { 'policy' }, {}, { 'ideal' }
  local names = names_of(rows)
  for i, row in ipairs(rows) do
    values[i], lines[i] = metrics.values(row), { names[i] }
  end
  for column, metric in ipairs(metrics.shown(table_name, values)) do
    heading[column + 1] = metric.title
    for i in ipairs(rows) do
      local value = values[i][metric.name]
      lines[i][column + 1] = value and metrics.show(metric, value) or false
    end
    local best = metrics.ideal(metric, rows)
    ideal[column + 1] = best and metrics.show(metric, best) or false
  end
  lines[#lines + 1] = ideal
  return heading, lines
end

--- Curves over the steps, by metric: { values = list, first = step }. list: values by name, of one
-- step after the other from first on; those of a metric that some step lacks are not there.
function metrics.curves(list, first)
  local curves = {}
  for _, metric in ipairs(metrics.list) do
    local values = {}
    for i, step in ipairs(list) do values[i] = step[metric.name] end
    if metric.curve and #list > 0 and #values == #list then
      curves[metric.name] = { values = values, first = first }
    end
  end
  return curves
end

return metrics

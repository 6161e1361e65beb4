-- SPDX-License-Identifier: Apache-2.0

--- neap compare: what the run store says about policies, and how sure that is.

local compare = require 'neap.runs.compare'
local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local groups = require 'neap.runs.groups'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local policy_names = require 'neap.runs.names'
local outputs = require 'neap.base.outputs'
local store = require 'neap.runs.store'
local text_table = require 'neap.base.text_table'

local command = { doc = 'Compare policies on equal seeds, traces and parameters.' }

command.examples = [[
Examples:
  neap compare                              everything that has finished
  neap compare --sweep policies             one sweep
  neap compare 12..19                       some runs
  neap compare --by hidden                  a table for each value of a parameter
  neap compare laer hot --baseline laer     some policies
  neap compare --metric imbalance --markdown -o table.md
A difference is the mean over pairs: results that differ in nothing but the policy. The interval
holds the true mean in 95 of 100 cases (smoothed bootstrap). A winner needs 5 pairs.

Metrics, with * those that are compared unless --metric names others:
]] .. metrics.help()

function command.options(parser)
  parser:argument('which', 'runs (12, 12..19), sweeps or policies'):args '*':argname '<which>'
  arguments.sweep(parser, 'only runs of this sweep')
  parser:option('--tag', 'only runs with this tag'):argname '<tag>'
  parser:option('--by', 'one comparison for each value of this parameter (hidden, ranks, …)')
    :argname '<parameter>'
  parser:option('--baseline', 'what the others are compared with (default: static)')
    :argname '<policy>'
  arguments.several(parser, '--metric --metrics', 'metric to show, one or several')
  parser:option('--store', 'run store (default: NEAP_STORE, else runs.db)'):argname '<file>'
  parser:flag('--json', 'results as JSON')
  parser:flag('--csv', 'results as CSV')
  parser:flag('--markdown', 'results as Markdown')
  arguments.output(parser, 'write to this file instead of stdout')
end

--- Sorts words into runs, a sweep and policies.
local function sort_words(runs, args)
  local choice, policies = { sweep = args.sweep, tag = args.tag }, {}
  local known = {}
  for _, row in ipairs(runs:rows 'SELECT DISTINCT name FROM sweeps') do known[row.name] = true end
  for _, word in ipairs(args.which) do
    local first, last = word:match '^(%d+)$', nil
    if not first then first, last = word:match '^(%d+)%.%.(%d+)$' end
    if first then
      first, last = tonumber(first), tonumber(last or first)
      if last < first then
        errors.usage("'%s': the range is empty; it must rise, as in 12..19", word)
      end
      choice.runs = choice.runs or {}
      table.insert(choice.runs, { first, last })
    elseif known[word] and not choice.sweep then
      choice.sweep = word
    else
      policies[#policies + 1] = word
    end
  end
  if choice.sweep and not known[choice.sweep] then
    local names = lib.sorted_keys(known)
    errors.usage("no sweep '%s' in %s%s; there are: %s", choice.sweep, runs.path,
      lib.hint(choice.sweep, names), #names > 0 and table.concat(names, ', ') or 'none')
  end
  return choice, #policies > 0 and policies or nil
end

local function check_policies(policies, results)
  local known = {}
  for _, row in ipairs(results) do known[row.policy] = true end
  local there = lib.sorted_keys(known)
  for _, row in ipairs(results) do known[row.text] = true end
  for _, policy in ipairs(policies or {}) do
    if not known[policy] then
      errors.usage("no finished result of '%s'%s; there are: %s", policy, lib.hint(policy, there),
        table.concat(there, ', '))
    end
  end
end

--- ---- formats ----------------------------------------------------------------------------------

local HEADING = { 'policy', 'mean', 'pairs', 'difference', '95 % interval', 'relative',
  'share of ideal', 'verdict' }

--- A difference of a metric as text, with its sign.
local function signed(metric, value)
  return value and (value >= 0 and '+' or '') .. metrics.show(metric, value)
end

local function interval(metric, row)
  return row.low and ('[%s, %s]'):format(signed(metric, row.low), signed(metric, row.high))
end

local function cells_of(row, metric)
  return {
    policy_names.mark(row.policy, row), metrics.show(metric, row.mean), row.pairs,
    signed(metric, row.difference),
    interval(metric, row), row.relative and ('%+.1f %%'):format(100 * row.relative),
    row.share_of_ideal and ('%.1f %%'):format(100 * row.share_of_ideal), row.verdict,
  }
end

local function verdict_line(entry, metric)
  local w = entry.winner
  if not w then return ('no winner: %s.'):format(entry.reason) end
  return ('%s wins over %s: %s %s, %+.1f %%, %d pairs.'):format(w.policy, w.over,
    signed(metric, w.difference), interval(metric, w), 100 * w.relative, w.pairs)
end

local function rows_of(entry, metric)
  local rows = {}
  for i, row in ipairs(entry.rows) do rows[i] = cells_of(row, metric) end
  if entry.ideal then
    rows[#rows + 1] = { 'ideal', metrics.show(metric, entry.ideal), false, false, false, false,
      '100.0 %', 'bound' }
  end
  return rows
end

local function title(document, entry, metric)
  return ('%s%s (%s is better), compared with %s'):format(entry.metric,
    metric.scale == 100 and ' in %' or '', entry.better, document.baseline)
end

--- What a grouped document is of: 'hidden = 64'.
local function group_of(document)
  return document.by and ('%s = %s'):format(document.by, document.group)
end

local function as_text(documents)
  local lines = {}
  for _, document in ipairs(documents) do
    if document.by then lines[#lines + 1] = ('==== %s ====\n'):format(group_of(document)) end
    for _, entry in ipairs(document.metrics) do
      local metric = metrics.find(entry.metric)
      lines[#lines + 1] = title(document, entry, metric)
      lines[#lines + 1] = text_table.format(HEADING, rows_of(entry, metric))
      lines[#lines + 1] = verdict_line(entry, metric) .. '\n'
    end
    for _, warning in ipairs(document.warnings) do lines[#lines + 1] = 'warning: ' .. warning end
  end
  return table.concat(lines, '\n')
end

local function markdown_row(cells, count)
  local texts = {}
  for i = 1, count do
    local value = cells[i]
    texts[i] = value and tostring(value):gsub('|', '\\|') or '-'
  end
  return '| ' .. table.concat(texts, ' | ') .. ' |'
end

local function as_markdown(documents)
  local lines = {}
  for _, document in ipairs(documents) do
    if document.by then lines[#lines + 1] = '## ' .. group_of(document) .. '\n' end
    for _, entry in ipairs(document.metrics) do
      local metric = metrics.find(entry.metric)
      lines[#lines + 1] = '### ' .. title(document, entry, metric) .. '\n'
      lines[#lines + 1] = markdown_row(HEADING, #HEADING)
      lines[#lines + 1] = '|' .. ('---|'):rep(#HEADING)
      for _, cells in ipairs(rows_of(entry, metric)) do
        lines[#lines + 1] = markdown_row(cells, #HEADING)
      end
      lines[#lines + 1] = '\n' .. verdict_line(entry, metric) .. '\n'
    end
    for _, warning in ipairs(document.warnings) do lines[#lines + 1] = '* warning: ' .. warning end
  end
  return table.concat(lines, '\n')
end

local COLUMNS = { 'policy', 'mean', 'values', 'pairs', 'difference', 'low', 'high', 'relative',
  'share_of_ideal', 'verdict', 'in_force' }

local function csv_cell(value)
  if value == nil then return '' end
  local text = type(value) == 'number' and ('%.12g'):format(value) or tostring(value)
  return text:find '[,"\n]' and '"' .. text:gsub('"', '""') .. '"' or text
end

local function as_csv(documents)
  local by = documents[1].by
  local lines = { (by and csv_cell(by) .. ',' or '') .. 'metric,better,baseline,'
    .. table.concat(COLUMNS, ',') }
  for _, document in ipairs(documents) do
    for _, entry in ipairs(document.metrics) do
      for _, row in ipairs(entry.rows) do
        local cells = { entry.metric, entry.better, csv_cell(document.baseline) }
        for _, column in ipairs(COLUMNS) do cells[#cells + 1] = csv_cell(row[column]) end
        lines[#lines + 1] = (by and csv_cell(document.group) .. ',' or '')
          .. table.concat(cells, ',')
      end
    end
  end
  return table.concat(lines, '\n')
end

local KEYS = { 'by', 'group', 'baseline', 'policies', 'rows', 'metric', 'better', 'ideal', 'policy',
  'in_force', 'mean', 'values', 'pairs', 'difference', 'low', 'high', 'relative', 'share_of_ideal',
  'verdict', 'winners', 'over', 'reason', 'warnings' }

--- A row is a policy in a metric (and a group); winners has one entry per metric (and group).
local function as_json(documents)
  local rows, winners, warnings, policies, seen = {}, {}, {}, {}, {}
  for _, document in ipairs(documents) do
    for _, entry in ipairs(document.metrics) do
      for _, row in ipairs(entry.rows) do
        rows[#rows + 1] = { group = document.group, metric = entry.metric, better = entry.better,
          ideal = entry.ideal }
        for name, value in pairs(row) do rows[#rows][name] = value end
      end
      winners[#winners + 1] = { group = document.group, metric = entry.metric,
        reason = entry.reason }
      for name, value in pairs(entry.winner or {}) do winners[#winners][name] = value end
    end
    for _, warning in ipairs(document.warnings) do warnings[#warnings + 1] = warning end
    for _, policy in ipairs(document.policies) do
      if not seen[policy] then policies[#policies + 1] = policy end
      seen[policy] = true
    end
  end
  return json.results('compare', { by = documents[1].by, baseline = documents[1].baseline,
    policies = policies, rows = rows, winners = winners, warnings = warnings }, KEYS)
end

local function write(text, path)
  if not path then return print(text) end
  outputs.write(path, text .. '\n')
end

function command.run(args)
  outputs.check('--output', args.output)
  local runs = store.existing(args)
  local choice, policies = sort_words(runs, args)
  local results = compare.results(runs, choice)
  if #results == 0 then
    errors.usage('%s: no finished results there; neap runs lists what there is', runs.path)
  end
  check_policies(policies, results)
  local options = { baseline = args.baseline, policies = policies,
    metrics = #args.metric > 0 and args.metric or nil }
  local documents = args.by and groups.compare(runs, results, args.by, options)
    or { compare.policies(results, options) }
  local format = args.json and as_json or args.csv and as_csv or args.markdown and as_markdown
    or as_text
  write(format(documents), args.output)
end

return command

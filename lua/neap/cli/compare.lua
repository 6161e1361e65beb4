--- neap compare: what the run store says about policies, and how sure that is.

local compare = require 'neap.runs.compare'
local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
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
  neap compare laer hot --baseline laer     some policies
  neap compare --metric imbalance --markdown -o table.md
A difference is the mean over pairs: results that differ in nothing but the policy. The interval
holds the true mean in 95 of 100 cases (smoothed bootstrap). A winner needs 5 pairs.

Metrics, with * those that are compared unless --metric names others:
]] .. metrics.help()

function command.options(parser)
  parser:argument('which', 'runs (12, 12..19), sweeps or policies'):args '*':argname '<which>'
  arguments.sweep(parser, 'only runs of this sweep')
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
  local choice, policies = { sweep = args.sweep }, {}
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

local function as_text(document)
  local lines = {}
  for _, entry in ipairs(document.metrics) do
    local metric = metrics.find(entry.metric)
    lines[#lines + 1] = title(document, entry, metric)
    lines[#lines + 1] = text_table.format(HEADING, rows_of(entry, metric))
    lines[#lines + 1] = verdict_line(entry, metric) .. '\n'
  end
  for _, warning in ipairs(document.warnings) do lines[#lines + 1] = 'warning: ' .. warning end
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

local function as_markdown(document)
  local lines = {}
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
  return table.concat(lines, '\n')
end

local COLUMNS = { 'policy', 'mean', 'values', 'pairs', 'difference', 'low', 'high', 'relative',
  'share_of_ideal', 'verdict', 'in_force' }

local function csv_cell(value)
  if value == nil then return '' end
  local text = type(value) == 'number' and ('%.12g'):format(value) or tostring(value)
  return text:find '[,"\n]' and '"' .. text:gsub('"', '""') .. '"' or text
end

local function as_csv(document)
  local lines = { 'metric,better,baseline,' .. table.concat(COLUMNS, ',') }
  for _, entry in ipairs(document.metrics) do
    for _, row in ipairs(entry.rows) do
      local cells = { entry.metric, entry.better, csv_cell(document.baseline) }
      for _, column in ipairs(COLUMNS) do cells[#cells + 1] = csv_cell(row[column]) end
      lines[#lines + 1] = table.concat(cells, ',')
    end
  end
  return table.concat(lines, '\n')
end

local KEYS = { 'baseline', 'policies', 'rows', 'metric', 'better', 'ideal', 'policy', 'in_force',
  'mean', 'values', 'pairs', 'difference', 'low', 'high', 'relative', 'share_of_ideal', 'verdict',
  'winners', 'over', 'reason', 'warnings' }

--- A row is a policy in a metric; winners has one entry per metric.
local function as_json(document)
  local rows, winners = {}, {}
  for i, entry in ipairs(document.metrics) do
    for _, row in ipairs(entry.rows) do
      rows[#rows + 1] = { metric = entry.metric, better = entry.better, ideal = entry.ideal }
      for name, value in pairs(row) do rows[#rows][name] = value end
    end
    winners[i] = { metric = entry.metric, reason = entry.reason }
    for name, value in pairs(entry.winner or {}) do winners[i][name] = value end
  end
  return json.results('compare', { baseline = document.baseline, policies = document.policies,
    rows = rows, winners = winners, warnings = document.warnings }, KEYS)
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
  local document = compare.policies(results, { baseline = args.baseline, policies = policies,
    metrics = #args.metric > 0 and args.metric or nil })
  local format = args.json and as_json or args.csv and as_csv or args.markdown and as_markdown
    or as_text
  write(format(document), args.output)
end

return command

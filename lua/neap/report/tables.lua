-- SPDX-License-Identifier: Apache-2.0

--- Sections of a report that are numbers: summary, comparison, differences with their intervals.
-- sections.lua has the others.

local entries = require 'neap.report.entries'
local intervals = require 'neap.draw.intervals'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local page = require 'neap.report.page'
local statistics = require 'neap.runs.statistics'
local svg = require 'neap.draw.svg'

local tables = {}

local REFERENCES = { static = true, laer = true }

--- A number with a minus that is as wide as a plus.
local function typeset(text)
  return (text:gsub('^-', '−'))
end

local function show(metric, value)
  return typeset(metrics.show(metric, value))
end

--- The same with its unit, where it stands alone.
local function show_alone(metric, value)
  return show(metric, value) .. (metric.scale == 100 and ' %' or '')
end

local function key_of(i)
  return ('<span class="key" style="background:%s"></span>'):format(
    svg.colours[(i - 1) % #svg.colours + 1])
end

--- ---- summary ----------------------------------------------------------------------------------

--- How much better an entry is than another in a metric, as a share of the other's value.
local function gain(metric, entry, other)
  local mine, theirs = entry.values[metric.name], other.values[metric.name]
  if not (mine and theirs) then return nil end
  return (metric.better == 'higher' and 1 or -1) * (mine / theirs - 1)
end

local function signed(share)
  return share and typeset(('%+.1f %%'):format(100 * share))
end

local function headline(by, best, others)
  local parts = {}
  for _, entry in ipairs(others) do
    if entry ~= best then
      parts[#parts + 1] = ('%s of %s'):format(show(by, entry.values[by.name]), entry.name)
    end
  end
  return by.ranking.best:format(best.name, show(by, best.values[by.name]),
    #parts > 0 and ', against ' .. table.concat(parts, ' and ') or '')
end

--- What compare.lua says about a metric in one sentence.
local function verdict_on(entry)
  local w, title, metric = entry.winner, entry.metric:gsub('_', ' '), metrics.find(entry.metric)
  if not w then return ('%s: no winner; %s.'):format(title, entry.reason) end
  return ('%s: %s wins over %s by %s (95 %% interval %s to %s, %d pairs).'):format(title, w.policy,
    w.over, signed(w.relative) or show(metric, w.difference), show(metric, w.low),
    show(metric, w.high), w.pairs)
end

--- What the numbers are worth.
local function caveat(document)
  local fewest = math.huge
  for _, entry in ipairs(document.entries) do fewest = math.min(fewest, entry.runs or 1) end
  if fewest < statistics.FEWEST then
    return ('No verdict: %d run%s of each policy. A difference counts when it holds on at least %d '
      .. 'pairs of runs on the same seed and data (neap sweep, then neap compare).'):format(fewest,
      fewest == 1 and '' or 's', statistics.FEWEST)
  end
  return ('Means over %d runs of each policy.'):format(fewest)
end

local function tile(value, label)
  return page.fill('<div class="card tile"><b>%s</b><span>%s</span></div>', value, label)
end

local function tiles(document, by, best)
  local faults, out = 0, {}
  for _, entry in ipairs(document.entries) do faults = faults + (entry.values.faults or 0) end
  for _, other in ipairs(document.references) do
    local better = other ~= best and gain(by, best, other)
    if better then
      out[#out + 1] = tile(('%.1f %%'):format(100 * math.abs(better)),
        by.ranking[better < 0 and 2 or 1] .. ' than ' .. other.name)
    end
  end
  for _, metric in ipairs(metrics.list) do
    local value = metric.tile and best.values[metric.name]
    if value then out[#out + 1] = tile(show_alone(metric, value), metric.tile) end
  end
  return '<div class="tiles">' .. table.concat(out)
    .. tile(('%d'):format(faults), 'faults of policies') .. '</div>'
end

function tables.summary(document)
  local by, best = document.by, document.best
  if not best then return nil end
  local others = #document.references > 0 and document.references
    or entries.rank(document.entries, by)
  local lines, won = {}, false
  local comparison = document.comparisons and document.comparisons[1]
  for i, entry in ipairs(comparison and comparison.metrics or {}) do
    lines[i] = page.fill('<p>%s</p>', verdict_on(entry))
    won = won or entry.winner ~= nil
  end
  if #lines == 0 then lines[1] = page.fill('<p>%s</p>', caveat(document)) end
  local row = best.rows[1]
  if row.simulated then
    table.insert(lines, 1, page.fill('<p>Times are simulated: %s on %s.</p>',
      row.model or "the recipe's model", row.cluster or 'a described cluster'))
  end
  return { title = 'Summary', body = ('<div class="card verdict%s">'):format(won and '' or ' open')
    .. page.fill('<p>%s</p>', headline(by, best, others)) .. table.concat(lines) .. '</div>'
    .. tiles(document, by, best) }
end

--- ---- comparison -------------------------------------------------------------------------------

--- The cells of a row; gains stand right of the metric that they are about.
local function cells(document, columns, first, cell, gain_over)
  local row = { first }
  for _, metric in ipairs(columns) do
    row[#row + 1] = cell(metric)
    if metric == document.by then
      for _, other in ipairs(document.references) do row[#row + 1] = gain_over(other) end
    end
  end
  return row
end

local function comparison_row(document, i, entry, columns)
  local row = cells(document, columns,
    key_of(i) .. svg.escape(entry.name),
    function(metric)
      local value = entry.values[metric.name]
      return value and show(metric, value) or '–'
    end,
    function(other) return entry ~= other and signed(gain(document.by, entry, other)) or '–' end)
  row.class = entry == document.best and 'best' or REFERENCES[entry.policy] and 'reference' or nil
  return row
end

--- The row that no policy beats.
local function ideal_row(document, columns)
  local all = entries.rows(document.entries)
  local row = cells(document, columns, 'ideal', function(metric)
    local best = metrics.ideal(metric, all)
    return best and show(metric, best) or '–'
  end, function() return '–' end)
  row.class = 'reference'
  return row
end

--- How to read the columns.
local function legend(document, columns)
  local items = {}
  for i, metric in ipairs(columns) do
    items[i] = page.fill('<li><b>%s</b>: %s</li>', metric.name:gsub('_', ' '), metric.doc)
  end
  local by = document.by and ('Better: the %s, in percent of the other. '):format(
    document.by.name:gsub('_', ' ')) or ''
  return page.fill('<p class="note">%sIdeal: every rank does the mean, and nothing waits for '
    .. 'communication.</p>', by) .. '<details><summary>How to read the columns</summary><ul>'
    .. table.concat(items) .. '</ul></details>'
end

function tables.comparison(document)
  if #document.entries == 0 then return nil end
  local values, rows = {}, {}
  for i, entry in ipairs(document.entries) do values[i] = entry.values end
  local columns = metrics.shown('report', values)
  local heading = cells(document, columns, 'policy', function(metric) return metric.title end,
    function(other) return 'better than<br>' .. svg.escape(other.name) end)
  for i, entry in ipairs(document.entries) do
    rows[i] = comparison_row(document, i, entry, columns)
  end
  rows[#rows + 1] = ideal_row(document, columns)
  return { title = 'Comparison', body = page.table(heading, rows) .. legend(document, columns) }
end

--- ---- differences ------------------------------------------------------------------------------

local function difference_row(metric, entry, row)
  local interval = row.low and ('%s to %s'):format(show(metric, row.low), show(metric, row.high))
  return { svg.escape(names.mark(row.policy, row)), show_alone(metric, row.mean),
    row.pairs and ('%d'):format(row.pairs), row.difference and show(metric, row.difference),
    interval, signed(row.relative), svg.escape(row.verdict),
    class = row.policy == (entry.winner and entry.winner.policy) and 'best' or nil }
end

--- Differences with their intervals as charts, a metric each; '' where there are none.
local function charts_of(comparison)
  local figures = {}
  for _, entry in ipairs(comparison.metrics) do
    local rows, metric = {}, metrics.find(entry.metric)
    local scale = metric.scale or 1
    for _, row in ipairs(entry.rows) do
      if row.low and names.counts(row) then
        rows[#rows + 1] = { name = row.policy, mean = scale * row.difference,
          low = scale * row.low, high = scale * row.high, verdict = row.verdict }
      end
    end
    if #rows > 0 then
      figures[#figures + 1] = page.figure(intervals.draw { rows = rows,
        title = ('%s, difference from %s'):format(entry.metric:gsub('_', ' '),
          comparison.baseline),
        unit = ('%s is better; lines are 95 %% intervals'):format(entry.better),
        show = function(value) return show_alone(metric, value / scale) end })
    end
  end
  return #figures > 0 and page.grid(figures) or ''
end

--- Differences of one comparison as HTML.
local function differences_of(comparison)
  local parts = {}
  if comparison.by then
    parts[1] = page.fill('<h3>%s = %s, compared with %s</h3>', comparison.by, comparison.group,
      comparison.baseline)
  end
  parts[#parts + 1] = charts_of(comparison)
  for _, entry in ipairs(comparison.metrics) do
    local rows, metric = {}, metrics.find(entry.metric)
    for j, row in ipairs(entry.rows) do rows[j] = difference_row(metric, entry, row) end
    parts[#parts + 1] = page.fill('<h3>%s (%s is better)</h3>', entry.metric:gsub('_', ' '),
      entry.better) .. page.table({ 'policy', 'mean', 'pairs', 'difference', '95 % interval',
      'relative', 'verdict' }, rows)
  end
  for _, warning in ipairs(comparison.warnings) do
    parts[#parts + 1] = page.fill('<p class="note">Warning: %s.</p>', warning)
  end
  return table.concat(parts)
end

--- Differences on the same seed and data, with how sure they are.
function tables.differences(document)
  local comparisons = document.comparisons or {}
  if #comparisons == 0 then return nil end
  local parts = {}
  for i, comparison in ipairs(comparisons) do parts[i] = differences_of(comparison) end
  return { title = comparisons[1].by and 'Differences by ' .. comparisons[1].by
    or 'Differences from ' .. comparisons[1].baseline, body = '<p class="note">Pairs are runs that '
    .. 'differ in nothing but the policy.</p>' .. table.concat(parts) }
end

return tables

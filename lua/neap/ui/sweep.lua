-- SPDX-License-Identifier: Apache-2.0

--- The page of a sweep: how far it is, what is best so far, curves of what goes on, and its cells.

local frame = require 'neap.ui.frame'
local live = require 'neap.runs.live'
local metrics = require 'neap.runs.metrics'
local page = require 'neap.report.page'
local pages = require 'neap.ui.pages'
local svg = require 'neap.draw.svg'
local sweeps = require 'neap.runs.sweeps'

local sweep = {}

local CELLS, BEST, CURVES = 200, 12, 6 -- at most

local function best_of(runs, found)
  local list, shown = sweeps.best(runs, found)
  if #list == 0 then return '<p class="card">No run is done yet.</p>' end
  local heading, rows = { 'policy', 'parameters', 'runs' }, {}
  for i, metric in ipairs(shown) do heading[i + 3] = svg.escape(metric.title) end
  for i = 1, math.min(BEST, #list) do
    rows[i] = { svg.escape(list[i].policy), svg.escape(list[i].label),
      ('%d'):format(list[i].count) }
    for j, metric in ipairs(shown) do
      local value = list[i].values[metric.name]
      rows[i][j + 3] = value and svg.escape(metrics.show(metric, value)) or '–'
    end
  end
  rows[1].class = 'best'
  return page.table(heading, rows) .. page.fill('<p class="note">Best balanced first, %s of %s; '
    .. 'means over the runs of other seeds. Intervals: in the report.</p>', #rows, #list)
end

--- Results whose curves are shown: of what goes on, then of what began last.
local function curves_of(runs, found)
  local cells, results = {}, {}
  for _, cell in ipairs(found.cells) do
    if cell.run and cell.state ~= 'failed' then cells[#cells + 1] = cell end
  end
  table.sort(cells, function(a, b)
    local x, y = a.state == 'running', b.state == 'running'
    if x ~= y then return x end
    return a.run.id > b.run.id
  end)
  for _, cell in ipairs(cells) do
    for _, result in ipairs(live.results(runs, cell.run)) do
      if result.last and #results < CURVES then
        result.label = cell.label
        results[#results + 1] = result
      end
    end
    if #results == CURVES then break end
  end
  return pages.curves(runs, results)
end

local function cells_of(found)
  local rows = {}
  for i = 1, math.min(CELLS, #found.cells) do
    local cell, run = found.cells[i], found.cells[i].run
    rows[i] = { ('%d'):format(cell.number), frame.state(cell.state),
      run and page.fill('<a href="run/%s" id="a%s" data-row="1">run %s</a>', run.id, run.id, run.id)
        or '', run and svg.escape(frame.took(run)) or '', svg.escape(cell.label),
      cell.state == 'failed' and page.fill('<span class="note">%s</span>',
        svg.short(run.error or '', 60)) or '' }
  end
  return page.table({ 'no.', 'state', 'run', 'took', 'parameters', 'error' }, rows)
    .. (#found.cells > CELLS and page.fill('<p class="note">The first %s of %s.</p>', CELLS,
      #found.cells) or '')
end

--- A sweep as sweeps.read gives it. options: part.
-- : store, table, table -> string
function sweep.render(runs, found, options)
  local count = found.count
  local done = {}
  for _, cell in ipairs(found.cells) do
    if cell.state == 'done' then done[#done + 1] = ('run=%d'):format(cell.run.id) end
  end
  local body = '<p><a href="./" id="all" data-key="Escape">all runs</a>'
    .. (' · <a href="./?q=%s" id="runs">its runs</a>'):format(frame.address(found.name))
    .. (#done > 0 and #done <= CELLS and (' · <a id="report" href="report?%s">report: comparison '
      .. 'with intervals</a>'):format(table.concat(done, '&amp;')) or '') .. '</p>'
    .. '<div class="card">' .. frame.progress(count.done + count.failed, #found.cells, 'runs',
      found.left) .. page.fill('<p class="note">%s done, %s failed, %s running, %s to do</p></div>',
      count.done, count.failed, count.running, count.todo)
    .. '<h2>Best so far</h2>' .. best_of(runs, found)
    .. '<h2>Over the steps</h2>' .. curves_of(runs, found)
    .. '<h2>Runs</h2>' .. cells_of(found)
  return frame.render { part = options.part, title = 'Neap: sweep ' .. found.name, root = '',
    subtitle = runs.path, body = frame.live(count.running > 0, body) }
end

return sweep

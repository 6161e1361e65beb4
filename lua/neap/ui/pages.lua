-- SPDX-License-Identifier: Apache-2.0

--- The first page of neap ui, which lists sweeps and runs, and those of a run: its curves, and the
-- timeline of a step.

local chart = require 'neap.draw.chart'
local frame = require 'neap.ui.frame'
local lib = require 'neap.base.lib'
local live = require 'neap.runs.live'
local layouts = require 'neap.ui.layouts'
local metrics = require 'neap.runs.metrics'
local page = require 'neap.report.page'
local svg = require 'neap.draw.svg'
local sweeps = require 'neap.runs.sweeps'
local text_table = require 'neap.base.text_table'
local timeline = require 'neap.report.timeline'

local pages = {}

local MOST = 200 -- runs on the page unless all are asked for

--- How far a run is, as HTML.
local function progress_of(runs, run)
  local done, total, left = live.progress(runs, run)
  if not total then return page.fill('%s steps', done) end
  return frame.progress(done, total, 'steps', left)
end

--- ---- the list of runs --------------------------------------------------------------------------

--- Words of a run that lead to the runs that have them, and its sweep.
local function links_to(run)
  local list = {}
  for i, word in ipairs(run.tags or {}) do
    list[i] = ('<a href="?q=%s">%s</a>'):format(frame.address(word), svg.escape(word))
  end
  if run.sweep then
    list[#list + 1] = ('<a href="sweep?name=%s">%s</a>'):format(frame.address(run.sweep),
      svg.escape(run.sweep))
  end
  return table.concat(list, ' ')
end

local function row_of(runs, run)
  local said = run.note or run.error
  return {
    page.fill('<input type="checkbox" name="run" id="r%s" value="%s" aria-label="choose run %s">'
      .. '<a href="run/%s" id="a%s" data-row="1">run %s</a>', run.id, run.id, run.id, run.id,
      run.id, run.id),
    frame.state(run.state), svg.escape(run.kind), svg.escape(text_table.date(run.started)),
    svg.escape(frame.took(run)), run.state == 'running' and progress_of(runs, run) or '',
    svg.escape(table.concat(run.policies, ' ')), links_to(run),
    said and page.fill('<span class="note">%s</span>', svg.short(said, 60)) or '',
  }
end

local HEADING = { 'run', 'state', 'kind', 'started', 'took', 'progress', 'policies', 'tags, sweep',
  'note or error' }

--- The sweeps of runs that go on, with how far they are.
local function running_sweeps(runs, list)
  local seen, parts = {}, {}
  for _, run in ipairs(list) do
    local found = run.state == 'running' and run.sweep and not seen[run.sweep]
      and sweeps.read(runs, run.sweep)
    seen[run.sweep or ''] = true
    if found then
      parts[#parts + 1] = ('<div class="card">sweep <a href="sweep?name=%s" data-row="1">%s</a> ')
        :format(frame.address(run.sweep), svg.escape(run.sweep))
        .. frame.progress(found.count.done + found.count.failed, #found.cells, 'runs', found.left)
        .. '</div><p></p>'
    end
  end
  return table.concat(parts)
end

local FILTER = '<form class="bar" role="search"><input type="search" name="q" id="q" value="%s" '
  .. 'placeholder="Filter: state, policy, tag, sweep, command" aria-label="filter">'
  .. '<button>Filter</button><a href="?all=1">all runs</a></form>'
  .. '<p class="keys"><kbd>/</kbd> filter <kbd>↑</kbd> <kbd>↓</kbd> runs '
  .. '<kbd>Enter</kbd> open <kbd>Space</kbd> choose '
  .. '<kbd>Esc</kbd> back</p>'

--- The list. options: query, all (nil: the newest), part.
-- : store, table -> string
function pages.list(runs, options)
  local list, count = live.list(runs, { query = options.query, most = not options.all and MOST })
  local rows, going_on = {}, false
  for i, run in ipairs(list) do
    rows[i] = row_of(runs, run)
    going_on = going_on or run.state == 'running'
  end
  local parts = { running_sweeps(runs, list),
    page.fill('<p class="note">%s of %s runs.</p>', #list, count) }
  if #list == 0 then
    parts[#parts + 1] = '<p class="card">No run matches.</p>'
  else
    parts[#parts + 1] = '<form action="report">' .. page.table(HEADING, rows)
      .. '<p><button id="compare">Compare chosen runs</button></p></form>'
  end
  return frame.render { part = options.part, title = 'Neap: runs', subtitle = runs.path, root = '',
    above = page.fill(FILTER, options.query or ''),
    body = frame.live(going_on, table.concat(parts)) }
end

--- ---- a run -------------------------------------------------------------------------------------

--- Values as they are shown; second: whether one of them is not 0.
local function scaled(found, scale)
  local values, told = {}, false
  for i = 1, #found.values do
    values[i] = (scale or 1) * found.values[i]
    told = told or values[i] ~= 0
  end
  return values, told
end

--- Curves of results, a chart a metric, as HTML; label: what their curves are called (default:
-- their policy).
-- : store, list of table -> string
function pages.curves(runs, results)
  local curves, figures = {}, {}
  for i, result in ipairs(results) do curves[i] = live.curves(runs, result) end
  for _, metric in ipairs(live.metrics()) do
    local series, told = {}, false
    for i, result in ipairs(results) do
      local found = curves[i][metric.name]
      if found and #found.values > 1 then
        local values, some = scaled(found, metric.scale)
        series[#series + 1] = { name = result.label or result.policy, first = found.first,
          colour = i, values = values }
        told = told or some
      end
    end
    if told then
      figures[#figures + 1] = page.figure(chart.curves { title = metric.curve[1],
        unit = metric.curve[2], series = series })
    end
  end
  return #figures > 0 and page.grid(figures) or '<p class="card">No steps yet.</p>'
end

--- The latest step of every policy.
local function latest(results)
  local list, count = live.metrics()
  local heading, rows = { 'policy', 'step' }, {}
  for i = 1, count do heading[i + 2] = svg.escape(list[i].title) end
  for i, result in ipairs(results) do
    local last = result.last or {}
    rows[i] = { svg.escape(result.policy), last.step and ('%d'):format(last.step) }
    for j = 1, count do
      local value = last[list[j].name]
      rows[i][j + 2] = value and svg.escape(metrics.show(list[j], value)) or '–'
    end
  end
  return page.table(heading, rows)
end

local function facts_of(run)
  local list = { { 'command', run.command }, { 'started', text_table.date(run.started) },
    { 'took', frame.took(run) } }
  for _, name in ipairs { 'note', 'error', 'seed', 'ranks', 'device', 'transport', 'engine',
    'git_commit', 'host' } do
    if run[name] ~= nil and run[name] ~= '' then
      list[#list + 1] = { (name:gsub('_', ' ')), run[name] }
    end
  end
  return page.facts(list)
end

--- Where one can go from a run.
local function links_from(runs, run, results)
  local has_summary, parts = false, { '<a id="all" href="../" data-key="Escape">all runs</a>' }
  for _, result in ipairs(results) do has_summary = has_summary or result.summary ~= nil end
  local function add(id, address, text)
    parts[#parts + 1] = page.fill('<a id="%s" href="%s">%s</a>', id, address, text)
  end
  if run.sweep then add('sweep', '../sweep?name=' .. frame.address(run.sweep), 'its sweep') end
  if has_summary then
    add('report', ('../report?run=%d'):format(run.id), 'report: comparison, loads, layouts')
  end
  if layouts.there(runs, results) then
    add('layouts', ('%d/layouts'):format(run.id), 'layouts as they change')
  end
  if run.command:find(' --timeline', 1, true) then
    add('timeline', ('%d/timeline'):format(run.id), 'timeline of a step')
  end
  add('log', ('%d/log'):format(run.id), 'log and sources')
  return '<p>' .. table.concat(parts, ' · ') .. '</p>'
end

--- A run: how far it is, its latest steps and curves. options: part.
-- : store, table, table -> string
function pages.run(runs, run, options)
  local results = live.results(runs, run)
  local body = links_from(runs, run, results) .. '<div class="card">' .. frame.state(run.state)
    .. ' ' .. progress_of(runs, run) .. '</div>'
    .. (#results > 0 and '<h2>Latest step</h2>' .. latest(results) or '')
    .. '<h2>Over the steps</h2>' .. pages.curves(runs, results)
    .. layouts.latest(runs, run, results)
    .. '<h2>About the run</h2>' .. facts_of(run)
  return frame.render { part = options.part, title = ('Neap: run %d'):format(run.id), root = '../',
    subtitle = table.concat(run.policies, ' · '), body = frame.live(run.state == 'running', body) }
end

--- The timeline that a run was told to write, if it is there: list as timeline.read gives it.
local function timeline_of(run)
  local path = run.command:match ' %-%-timeline[= ](%S+)'
  local file = path and io.open(path)
  if not file then return nil end
  file:close()
  return timeline.read(path)
end

--- The timeline of a step of a run; nil without one.
-- : table -> string?
function pages.timeline(run)
  local list = timeline_of(run)
  if not list then return nil end
  local parts = { frame.back(run) }
  for _, one in ipairs(list) do
    parts[#parts + 1] = page.wide_or_narrow(timeline.draw(one), timeline.draw(one, 350))
      .. '<p></p>'
  end
  return page.render(('Neap: run %d'):format(run.id), 'timeline of a step',
    { { body = table.concat(parts) } }, ('neap %s'):format(lib.version))
end

--- A page that says only what is wrong.
-- : string, string -> string
function pages.message(title, text)
  return page.render(title, '', { { body = page.fill('<p class="card">%s</p>', text) } }, '')
end

return pages

-- SPDX-License-Identifier: Apache-2.0

--- The pages of neap ui, in the look of a report: the list of runs, and one run with its curves.
-- Their part in the element 'live' is fetched again while something goes on.

local chart = require 'neap.draw.chart'
local lib = require 'neap.base.lib'
local live = require 'neap.runs.live'
local layout_map = require 'neap.draw.layout_map'
local metrics = require 'neap.runs.metrics'
local moments = require 'neap.runs.moments'
local page = require 'neap.report.page'
local svg = require 'neap.draw.svg'
local text_table = require 'neap.base.text_table'
local timeline = require 'neap.report.timeline'
local topologies = require 'neap.engine.topology'

local pages = {}

local MOST = 200 -- runs on the page unless all are asked for
local SOON, LATER = 1000, 5000 -- ms until a page is fetched again: while a run goes on, and else

local STYLE = [[
a{color:#0b5c8f}a:focus-visible,input:focus-visible,button:focus-visible{outline:3px solid #E69F00;
 outline-offset:2px}
.bar{display:flex;flex-wrap:wrap;gap:10px;align-items:center;margin:0 0 12px}
input[type=search]{flex:1 1 12rem;min-width:0;font:inherit;padding:8px 10px;border-radius:8px;
 border:1px solid #b9c0c8;background:#fff}
button{font:inherit;padding:8px 14px;border-radius:8px;border:1px solid #12324a;background:#12324a;
 color:#fff;cursor:pointer}
input[type=checkbox]{width:18px;height:18px;margin:0 8px 0 0;vertical-align:-4px}
progress{display:block;width:100%;min-width:8rem;height:10px;margin:4px 0;accent-color:#0072B2}
.state{white-space:nowrap}.state i{display:inline-block;width:10px;height:10px;border-radius:5px;
 margin-right:6px}
td .note{font-size:.84rem}
@media screen and (max-width:900px){.cards td:empty{display:none}}
@media screen and (max-width:1240px){.many td:empty{display:none}}
]]

--- What keeps a page up to date; boxes that are ticked stay so.
pages.SCRIPT = [[
(function () {
  'use strict';
  var live = document.getElementById('live'), last = '', shown = 0;
  function ticked() {
    return Array.prototype.map.call(live.querySelectorAll('input:checked'),
      function (box) { return box.value; });
  }
  function show(text) {
    if (text === last) { return; }
    var chosen = ticked();
    var focused = document.activeElement && document.activeElement.id;
    live.innerHTML = text;
    last = text;
    live.dataset.shown = ++shown;
    live.querySelectorAll('input[type=checkbox]').forEach(function (box) {
      box.checked = chosen.indexOf(box.value) >= 0;
    });
    if (focused && document.getElementById(focused)) { document.getElementById(focused).focus(); }
  }
  function wait() {
    var part = live.querySelector('[data-every]');
    setTimeout(look, part ? Number(part.dataset.every) : 5000);
  }
  function look() {
    if (document.hidden) { wait(); return; }
    var address = new URL(location.href);
    address.searchParams.set('part', '1');
    fetch(address, { cache: 'no-store' }).then(function (answer) {
      return answer.ok ? answer.text() : Promise.reject(answer.status);
    }).then(show).catch(function () {
      document.title = 'Neap: not running';
    }).then(wait);
  }
  wait();
}());
]]

local COLOURS = { running = '#0072B2', done = '#009E73', failed = '#D55E00',
  interrupted = '#E69F00' }

local function state_of(run)
  return page.fill('<span class="state"><i style="background:%s"></i>%s</span>',
    COLOURS[run.state] or '#57606a', run.state)
end

--- How far a run is, as HTML; nil where nothing tells.
local function progress_of(runs, run)
  local done, total, left = live.progress(runs, run)
  if not total then return page.fill('%s steps', done) end
  return page.fill('<progress value="%s" max="%s" aria-label="progress"></progress>', done, total)
    .. page.fill('%s of %s steps', done, total)
    .. (left and page.fill(', %s left', text_table.duration(left)) or '')
end

local function took(run)
  local ended = run.ended or run.state == 'running' and lib.C.neap_time()
  return ended and text_table.duration(ended - run.started) or '–'
end

--- Which page, and what of it: part (true: only what is fetched again).
local function whole(part, title, subtitle, body, root)
  if part then return body end
  return page.render(title, subtitle, { { body = '<div id="live">' .. body .. '</div>' } },
    ('neap %s, for this machine only; it changes nothing.'):format(lib.version),
    '<style>' .. STYLE .. '</style><script defer src="' .. root .. 'live.js"></script>')
end

--- ---- the list of runs --------------------------------------------------------------------------

--- Words of a run that lead to the runs that have them.
local function links_to(words)
  local list = {}
  for i, word in ipairs(words) do
    list[i] = ('<a href="?q=%s">%s</a>'):format((word:gsub('[^%w]', function(c)
      return ('%%%02x'):format(c:byte())
    end)), svg.escape(word))
  end
  return table.concat(list, ' ')
end

local function row_of(runs, run)
  local about = { unpack(run.tags or {}) }
  about[#about + 1] = run.sweep
  local said = run.note or run.error
  return {
    page.fill('<input type="checkbox" name="run" id="r%s" value="%s" aria-label="choose run %s">'
      .. '<a href="run/%s" id="a%s">run %s</a>', run.id, run.id, run.id, run.id, run.id, run.id),
    state_of(run), svg.escape(run.kind), svg.escape(text_table.date(run.started)),
    svg.escape(took(run)), run.state == 'running' and progress_of(runs, run) or '',
    svg.escape(table.concat(run.policies, ' ')), links_to(about),
    said and page.fill('<span class="note">%s</span>', svg.short(said, 60)) or '',
  }
end

local HEADING = { 'run', 'state', 'kind', 'started', 'took', 'progress', 'policies', 'tags, sweep',
  'note or error' }

--- The list. options: query, all (nil: the newest), part.
-- : store, table -> string
function pages.list(runs, options)
  local list, count = live.list(runs, { query = options.query, most = not options.all and MOST })
  local rows, every = {}, LATER
  for i, run in ipairs(list) do
    rows[i] = row_of(runs, run)
    if run.state == 'running' then every = SOON end
  end
  local parts = { ('<div data-every="%d">'):format(every) }
  parts[#parts + 1] = page.fill('<p class="note">%s of %s runs.</p>', #list, count)
  if #list == 0 then
    parts[#parts + 1] = '<p class="card">No run matches.</p>'
  else
    parts[#parts + 1] = '<form action="report">' .. page.table(HEADING, rows)
      .. '<p><button id="compare">Compare chosen runs</button></p></form>'
  end
  parts[#parts + 1] = '</div>'
  local body = table.concat(parts)
  if options.part then return body end
  return (whole(false, 'Neap: runs', runs.path, body, ''):gsub('<main>', function()
    return '<main>' .. page.fill('<form class="bar" role="search"><input type="search" name="q" '
      .. 'id="q" value="%s" placeholder="Filter: state, policy, tag, sweep, command" '
      .. 'aria-label="filter"><button>Filter</button><a href="?all=1">all runs</a></form>',
      options.query or '')
  end, 1))
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

local function curves_of(runs, results)
  local curves, figures = {}, {}
  for i, result in ipairs(results) do curves[i] = live.curves(runs, result) end
  for _, metric in ipairs(live.metrics()) do
    local series, told = {}, false
    for i, result in ipairs(results) do
      local found = curves[i][metric.name]
      if found and #found.values > 1 then
        local values, some = scaled(found, metric.scale)
        series[#series + 1] = { name = result.policy, first = found.first, colour = i,
          values = values }
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

--- ---- loads and layouts -------------------------------------------------------------------------

--- The layer whose layout changed most between two moments (0 without an earlier one), and slots.
local function most_changed(now, before)
  local found, most = 1, 0
  for layer, ranks in ipairs(before and now.layouts or {}) do
    local count = 0
    for rank, slots in ipairs(ranks) do
      for slot, expert in ipairs(slots) do
        if before.layouts[layer][rank][slot] ~= expert then count = count + 1 end
      end
    end
    if count > most then found, most = layer, count end
  end
  return found, most
end

--- Experts of all slots as C array, for layout_map; a slot may be empty (-1).
local function as_array(topology, ranks)
  local array, at = lib.ffi.new('int32_t[?]', topology.slots), 0
  for _, slots in ipairs(ranks) do
    for _, expert in ipairs(slots) do
      array[at], at = expert, at + 1
    end
  end
  return array
end

local function draw_layout(run, now, before)
  local layer, changed = most_changed(now, before)
  local slots = {}
  for rank, list in ipairs(now.layouts[layer]) do slots[rank] = #list end
  local topology = topologies.open { ranks = #slots, slots = slots, experts = #now.loads[layer],
    node_size = run.node_size }
  local then_ = before and as_array(topology, before.layouts[layer])
  return page.fill('<h3>Layout of layer %s</h3><p class="note">%s</p>', layer - 1,
      before and ('Step %d; of its slots %d have another expert than at step %d (framed).'):format(
        now.step, changed, before.step) or ('Step %d.'):format(now.step))
    .. '<figure>' .. layout_map.html(layout_map.draw(topology,
      as_array(topology, now.layouts[layer]), then_)) .. '</figure>'
end

local function draw_loads(now, width)
  return chart.heat { title = ('Load of the experts, step %d'):format(now.step), width = width,
    rows = #now.loads, columns = #now.loads[1], x = 'expert', y = 'layer',
    unit = 'tokens / mean of an expert', at = function(layer, expert)
      local loads, sum = now.loads[layer + 1], 0
      for _, load in ipairs(loads) do sum = sum + load end
      return sum > 0 and loads[expert + 1] * #loads / sum or 0
    end }
end

--- Loads and a layout of the policy that is trained, or was last.
local function moment_of(runs, run, results)
  for i = #results, 1, -1 do
    local list = moments.read(runs, results[i].id, 2)
    local now, before = list[#list], list[#list - 1]
    if now then
      return page.fill('<h2>Loads and layout: %s</h2>', results[i].policy)
        .. page.wide_or_narrow(draw_loads(now, 1000), draw_loads(now, 350))
        .. draw_layout(run, now, before)
    end
  end
  return ''
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
    { 'took', took(run) } }
  for _, name in ipairs { 'note', 'error', 'seed', 'ranks', 'device', 'transport', 'engine',
    'git_commit', 'host' } do
    if run[name] ~= nil and run[name] ~= '' then
      list[#list + 1] = { (name:gsub('_', ' ')), run[name] }
    end
  end
  return page.facts(list)
end

--- A run: how far it is, its latest steps and curves. options: part.
-- : store, table, table -> string
function pages.run(runs, run, options)
  local results = live.results(runs, run)
  local every = run.state == 'running' and SOON or LATER
  local has_summary = false
  for _, result in ipairs(results) do has_summary = has_summary or result.summary ~= nil end
  local body = ('<div data-every="%d"><p><a id="all" href="../">all runs</a>'):format(every)
    .. (has_summary and page.fill(' · <a id="report" href="../report?run=%s">report: comparison, '
      .. 'loads, layouts</a>', run.id) or '')
    .. (run.command:find(' --timeline', 1, true) and page.fill(' · <a id="timeline" '
      .. 'href="%s/timeline">timeline of a step</a>', run.id) or '')
    .. '</p><div class="card">' .. state_of(run) .. ' ' .. progress_of(runs, run) .. '</div>'
    .. (#results > 0 and '<h2>Latest step</h2>' .. latest(results) or '')
    .. '<h2>Over the steps</h2>' .. curves_of(runs, results) .. moment_of(runs, run, results)
    .. '<h2>About the run</h2>' .. facts_of(run) .. '</div>'
  return whole(options.part, ('Neap: run %d'):format(run.id), table.concat(run.policies, ' · '),
    body, '../')
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
  local parts = { page.fill('<p><a href="../../">all runs</a> · <a href="../%s">run %s</a></p>',
    run.id, run.id) }
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

-- SPDX-License-Identifier: Apache-2.0

--- Sections of a report, each from the document that init.lua has put together to HTML. Here are
-- those that are pictures, and where things come from; tables.lua has the tables.

local chart = require 'neap.draw.chart'
local layout_map = require 'neap.draw.layout_map'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local tables = require 'neap.report.tables'
local page = require 'neap.report.page'
local svg = require 'neap.draw.svg'
local spans = require 'neap.report.timeline'

local sections = { summary = tables.summary, comparison = tables.comparison,
  differences = tables.differences }

local MOST_MAPS, MOST_CHANGES = 32, 60

--- ---- curves -----------------------------------------------------------------------------------

local function scaled(values, scale)
  if not scale then return values end
  local out = {}
  for i = 1, #values do out[i] = scale * values[i] end
  return out
end

local function all_zero(values)
  for i = 1, #values do
    if values[i] ~= 0 then return false end
  end
  return true
end

--- Curves of a metric, one per entry that has it; none where all are 0 throughout.
local function series_of(document, metric)
  local series, told = {}, false
  for i, entry in ipairs(document.entries) do
    local found = entry.curves[metric.name]
    if found and #found.values > 1 then
      series[#series + 1] = { name = entry.name, values = scaled(found.values, metric.scale),
        first = found.first, colour = i }
      told = told or not all_zero(found.values)
    end
  end
  return told and series or {}
end

function sections.curves(document)
  local figures = {}
  for _, metric in ipairs(metrics.list) do
    local series = series_of(document, metric)
    if #series > 0 then
      figures[#figures + 1] = page.figure(chart.curves { title = metric.curve[1],
        unit = metric.curve[2], series = series })
    end
  end
  return #figures > 0 and { title = 'Over the steps', body = page.grid(figures) } or nil
end

--- ---- loads ------------------------------------------------------------------------------------

local function heat_chart(heat, t, width)
  return chart.heat { title = ('Load of the experts, layer %d'):format(heat.layer),
    rows = t.experts, columns = t.steps, x = 'step', y = 'expert', width = width, at = heat.value,
    unit = 'tokens / mean of an expert' }
end

function sections.heat(document)
  local seen = document.observed
  if not seen then return nil end
  local t, moment = document.trace, seen.moment
  return { title = 'Load of the experts', body = page.fill('<p>The hardest moment of the trace is '
    .. 'step %s in layer %s: one expert gets %s times the tokens of the mean expert. The pictures '
    .. 'of layouts and ranks below show that layer.</p>', moment.step, moment.layer,
    ('%.1f'):format(moment.hottest))
    .. page.wide_or_narrow(heat_chart(seen.heat, t, 1000), heat_chart(seen.heat, t, 350)) }
end

function sections.ranks(document)
  local seen = document.observed
  if not seen then return nil end
  local figures, high, topology, rows = {}, 0, document.topology, {}
  for i, policy in ipairs(seen.policies) do rows[i] = policy.row end
  local policy_names = names.of(rows)
  for _, policy in ipairs(seen.policies) do
    for _, work in ipairs(policy.work) do high = math.max(high, work) end
  end
  for i, policy in ipairs(seen.policies) do
    figures[i] = page.figure(chart.bars {
      title = svg.short(policy_names[i]), unit = 'work (tokens)',
      values = policy.work, high = high,
      node_of = function(rank) return topology:node_of(rank) end })
  end
  return { title = ('Work of the ranks, step %d, layer %d'):format(seen.moment.step,
    seen.moment.layer), body = page.grid(figures)
    .. '<p class="note">The fullest rank, for which all others wait, stands out if there is one; '
    .. 'dotted lines part the nodes. All charts have the same scale.</p>' }
end

--- ---- layouts ----------------------------------------------------------------------------------

--- Nodes to draw: all where they are few, else those with most changes.
local function nodes_to_draw(topology, change)
  if topology.nodes <= MOST_MAPS then return nil, '' end
  local counts, list = {}, {}
  for node = 0, topology.nodes - 1 do counts[node], list[node + 1] = 0, node end
  for slot = 0, topology.slots - 1 do
    if change.before[slot] ~= change.after[slot] then
      local rank = 0
      while topology.first_slot[rank + 1] <= slot do rank = rank + 1 end
      local node = topology:node_of(rank)
      counts[node] = counts[node] + 1
    end
  end
  table.sort(list, function(a, b)
    return counts[a] > counts[b] or counts[a] == counts[b] and a < b
  end)
  return { unpack(list, 1, MOST_MAPS) },
    (' Of %d nodes, the %d that changed most are shown.'):format(topology.nodes, MOST_MAPS)
end

local function list_changes(topology, change)
  local items, more = {}, 0
  for rank = 0, topology.ranks - 1 do
    for slot = topology.first_slot[rank], topology.first_slot[rank + 1] - 1 do
      if change.before[slot] ~= change.after[slot] then
        if #items < MOST_CHANGES then
          items[#items + 1] = ('<li>rank %d, slot %d: %d → %d</li>'):format(rank,
            slot - topology.first_slot[rank], change.before[slot], change.after[slot])
        else
          more = more + 1
        end
      end
    end
  end
  return ('<details><summary>What changed, slot by slot</summary><ul class="changes">%s</ul>%s'
    .. '</details>'):format(table.concat(items),
    more > 0 and ('<p class="note">and %d more</p>'):format(more) or '')
end

local function same_change(topology, a, b)
  if a.step ~= b.step or a.layer ~= b.layer then return false end
  for slot = 0, topology.slots - 1 do
    if a.before[slot] ~= b.before[slot] or a.after[slot] ~= b.after[slot] then return false end
  end
  return true
end

local function show_change(topology, whose, change)
  local nodes, note = nodes_to_draw(topology, change)
  return page.fill('<h3>%s</h3><p>Step %s, layer %s: %s of %s slots get another expert (framed).%s '
    .. '</p>', whose, change.step, change.layer, change.slots, topology.slots, note)
    .. '<div class="pair"><figure><figcaption>before</figcaption>'
    .. layout_map.html(layout_map.draw(topology, change.before, nil, nodes))
    .. '</figure><figure><figcaption>after</figcaption>'
    .. layout_map.html(layout_map.draw(topology, change.after, change.before, nodes))
    .. '</figure></div>' .. list_changes(topology, change)
end

--- Of the best policy, and of LAER for comparison: the largest change of a layout. Policies with
-- the same one share a picture.
function sections.layouts(document)
  local seen = document.observed
  if not seen then return nil end
  local parts, shown = {}, nil
  for _, policy in ipairs(seen.policies) do
    local text, name = policy.row.policy, names.plain { policy.row }[1]
    local wanted = text == 'laer' or document.best and text == document.best.policy
    if wanted and policy.change then
      if shown and same_change(document.topology, shown.change, policy.change) then
        parts[#parts] = show_change(document.topology,
          names.plain { shown.row }[1] .. ' and ' .. name, policy.change)
      else
        parts[#parts + 1] = show_change(document.topology, name, policy.change)
        shown = policy
      end
    end
  end
  if #parts == 0 then return nil end
  return { title = 'Layouts: the largest change', body = '<p class="note">A column is a rank, a '
    .. 'row per slot; numbers are experts, and so are the colours, which repeat.</p>'
    .. table.concat(parts) }
end

--- ---- timeline ---------------------------------------------------------------------------------

function sections.timeline(document)
  if not document.timeline then return nil end
  local parts = {}
  for i, run in ipairs(document.timeline) do
    parts[i] = page.wide_or_narrow(spans.draw(run), spans.draw(run, 350))
  end
  return { title = 'Timeline of a step', body = table.concat(parts, '<p></p>')
    .. '<p class="note">For each rank, from above: compute, tokens, unshard, reduce. The first '
    .. 'ranks are shown; what a rank waits for delays the step.</p>' }
end

--- ---- provenance -------------------------------------------------------------------------------

function sections.faults(document)
  if #document.messages == 0 then return nil end
  local lines = {}
  for i, message in ipairs(document.messages) do lines[i] = page.fill('<li>%s</li>', message) end
  return { title = 'Faults of policies', body = '<ul>' .. table.concat(lines) .. '</ul>' }
end

local function source(text)
  return page.fill('<details><summary>%s</summary><pre>%s</pre></details>', text[1], text[2])
end

function sections.provenance(document)
  local parts = {}
  for i, text in ipairs(document.texts) do parts[i] = source(text) end
  return { title = 'Where this comes from', body = page.facts(document.facts)
    .. table.concat(parts) }
end

--- All of them, in order.
function sections.all(document)
  local list = {}
  for _, name in ipairs { 'summary', 'comparison', 'differences', 'curves', 'heat', 'ranks',
    'layouts', 'timeline', 'faults', 'provenance' } do
    list[#list + 1] = sections[name](document)
  end
  return list
end

return sections

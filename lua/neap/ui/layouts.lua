-- SPDX-License-Identifier: Apache-2.0

--- Loads and layouts of a training on the pages of neap ui: of its latest moment, and from moment
-- to moment for each policy and layer.

local chart = require 'neap.draw.chart'
local frame = require 'neap.ui.frame'
local layout_map = require 'neap.draw.layout_map'
local lib = require 'neap.base.lib'
local moments = require 'neap.runs.moments'
local page = require 'neap.report.page'
local topologies = require 'neap.engine.topology'

local layouts = {}

local ROWS = 40 -- moments of a history at most

--- Slots of two layouts (list[rank][slot]) that differ.
local function changed(now, before)
  local count = 0
  for rank, slots in ipairs(now) do
    for slot, expert in ipairs(slots) do
      if before[rank][slot] ~= expert then count = count + 1 end
    end
  end
  return count
end

--- The layer whose layout changed most between two moments (0 without an earlier one).
local function most_changed(now, before)
  local found, most = 1, 0
  for layer, ranks in ipairs(before and now.layouts or {}) do
    local count = changed(ranks, before.layouts[layer])
    if count > most then found, most = layer, count end
  end
  return found
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

--- A layout, what is new in it framed. now, before: { step, load, layout }; before may be nil.
local function draw_layout(run, layer, now, before)
  local slots = {}
  for rank, list in ipairs(now.layout) do slots[rank] = #list end
  local topology = topologies.open { ranks = #slots, slots = slots, experts = #now.load,
    node_size = run.node_size }
  local note = ('Step %d.'):format(now.step)
  if before then
    note = ('Step %d; of its slots %d have another expert than at step %d (framed).'):format(
      now.step, changed(now.layout, before.layout), before.step)
  end
  return page.fill('<h3>Layout of layer %s</h3><p class="note">%s</p>', layer, note)
    .. '<figure>' .. layout_map.html(layout_map.draw(topology, as_array(topology, now.layout),
      before and as_array(topology, before.layout))) .. '</figure>'
end

local function over_mean(loads, expert)
  local sum = 0
  for _, load in ipairs(loads) do sum = sum + load end
  return sum > 0 and loads[expert + 1] * #loads / sum or 0
end

local function wide_or_narrow(draw)
  return page.wide_or_narrow(draw(1000), draw(350))
end

local function draw_loads(now, width)
  return chart.heat { title = ('Load of the experts, step %d'):format(now.step), width = width,
    rows = #now.loads, columns = #now.loads[1], x = 'expert', y = 'layer',
    unit = 'tokens / mean of an expert',
    at = function(layer, expert) return over_mean(now.loads[layer + 1], expert) end }
end

--- Whether one of some results has moments.
-- : store, list of table -> boolean
function layouts.there(runs, results)
  for _, result in ipairs(results) do
    if moments.of_result(runs, result.id) then return true end
  end
  return false
end

--- Loads, and the layout that changed most, of the policy that is trained, or was last; HTML.
-- : store, table, list of table -> string
function layouts.latest(runs, run, results)
  for i = #results, 1, -1 do
    local list = moments.read(runs, results[i].id, 2)
    local now, before = list[#list], list[#list - 1]
    if now then
      local layer = most_changed(now, before)
      local function of_layer(moment)
        return moment and { step = moment.step, load = moment.loads[layer],
          layout = moment.layouts[layer] }
      end
      return page.fill('<h2>Loads and layout: %s</h2>', results[i].policy)
        .. wide_or_narrow(function(width) return draw_loads(now, width) end)
        .. draw_layout(run, layer - 1, of_layer(now), of_layer(before))
    end
  end
  return ''
end

--- ---- from moment to moment ---------------------------------------------------------------------

--- At most ROWS of some steps, evenly, with the last one.
local function sample(steps)
  if #steps <= ROWS then return steps end
  local list = {}
  for i = 1, ROWS do list[i] = steps[math.floor((i - 1) * (#steps - 1) / (ROWS - 1)) + 1] end
  return list
end

local function replicas(moment, expert)
  local count = 0
  for _, slots in ipairs(moment.layout) do
    for _, other in ipairs(slots) do count = count + (other == expert and 1 or 0) end
  end
  return count
end

--- Heat maps over the moments: what the layer's experts had to do, and how many replicas they had.
local function draw_history(list)
  local first, last = list[1].step, list[#list].step
  local y = ('moment (%d: step %d, %d: step %d)'):format(0, first, #list - 1, last)
  local function heat(title, unit, at)
    return wide_or_narrow(function(width)
      return chart.heat { title = title, width = width, rows = #list, columns = #list[1].load,
        x = 'expert', y = y, unit = unit,
        at = function(row, expert) return at(list[row + 1], expert) end }
    end)
  end
  return heat('Replicas of the experts', 'slots', replicas) .. '<p></p>'
    .. heat('Load of the experts', 'tokens / mean of an expert', function(moment, expert)
      return over_mean(moment.load, expert)
    end)
end

--- What is chosen: index of the result (default: the last that has moments), its steps and layers,
-- layer and place of the step in the list (default: the latest); nil where there are none.
local function chosen(runs, results, fields)
  local index = tonumber(fields.policy)
  for i = #results, 1, -1 do
    local steps, layers = moments.steps(runs, results[i].id)
    if #steps > 0 and (not index or index == i) then
      local at, layer = #steps, tonumber((fields.layer or ''):match '^%d+$') or 0
      for place, step in ipairs(steps) do
        if step == tonumber(fields.step) then at = place end
      end
      return { index = i, steps = steps, layers = layers, at = at,
        layer = math.min(layers - 1, layer), fixed = fields.step ~= nil }
    end
  end
end

local function address(c, change)
  local step = change.at and c.steps[change.at] or c.fixed and c.steps[c.at] or nil
  return ('?policy=%d&layer=%d%s'):format(change.index or c.index, change.layer or c.layer,
    step and not change.index and ('&step=%d'):format(step) or '')
end

--- A link that a key presses, or its text where there is nothing to go to.
local function key_link(c, text, key, change)
  local there = not change.at or c.steps[change.at]
  if change.layer then there = change.layer >= 0 and change.layer < c.layers end
  if not there then return page.fill('<span class="note">%s</span>', text) end
  return page.fill('<a href="%s" data-key="%s">%s</a>', address(c, change), key, text)
end

local function controls(results, c)
  local policies, layers = {}, {}
  for i, result in ipairs(results) do
    policies[i] = { text = result.policy, address = address(c, { index = i }),
      current = i == c.index }
  end
  for layer = 0, c.layers - 1 do
    layers[layer + 1] = { text = ('%d'):format(layer), address = address(c, { layer = layer }),
      current = layer == c.layer }
  end
  return frame.choice('policy', policies) .. frame.choice('layer', layers)
    .. '<div class="choice">' .. key_link(c, 'first', 'Home', { at = 1 })
    .. key_link(c, '← earlier', 'ArrowLeft', { at = c.at - 1 })
    .. page.fill('<b>step %s</b> <span class="note">moment %s of %s</span>', c.steps[c.at], c.at,
      #c.steps)
    .. key_link(c, 'later →', 'ArrowRight', { at = c.at + 1 })
    .. key_link(c, 'last', 'End', { at = #c.steps })
    .. key_link(c, '↑ layer', 'ArrowUp', { layer = c.layer - 1 })
    .. key_link(c, '↓ layer', 'ArrowDown', { layer = c.layer + 1 }) .. '</div>'
end

--- Layouts as they change: one moment of a layer, and all of them as heat maps. fields: policy
-- (number of the result in the run, from 1), layer, step (default: the latest), part.
-- : store, table, list of table, table -> string
function layouts.render(runs, run, results, fields)
  local c = chosen(runs, results, fields)
  local body = '<p class="card">No loads and layouts yet; a training keeps some every second.</p>'
  if c then
    local id = results[c.index].id
    local pair = moments.of_layer(runs, id, c.layer, { c.steps[c.at], c.steps[c.at - 1] })
    body = controls(results, c) .. draw_layout(run, c.layer, pair[1], pair[2])
      .. page.fill('<h2>From moment to moment, layer %s</h2>', c.layer)
      .. draw_history(moments.of_layer(runs, id, c.layer, sample(c.steps)))
  end
  return frame.render { part = fields.part, title = ('Neap: run %d'):format(run.id),
    subtitle = 'layouts as they change', root = '../../',
    body = frame.live(run.state == 'running' and not (c and c.fixed), frame.back(run) .. body) }
end

return layouts

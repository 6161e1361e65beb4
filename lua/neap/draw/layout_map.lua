-- SPDX-License-Identifier: Apache-2.0

--- Pictures of layouts: a drawing a node, ranks as columns, slots as rows, coloured by expert.
--
--   local maps = layout_map.draw(topology, layout:array())          -- list of drawings
--   local maps = layout_map.draw(topology, now, before)             -- what changed is framed

local svg = require 'neap.draw.svg'

local layout_map = {}

local CELL, GAP, LABEL = 27, 4, 14
local A_ROW = 10 -- ranks beside each other
local FRAME = { fill = 'none', stroke = '#000', width = 2.2 }

local function cell(d, x, y, expert, changed, tip)
  local fill, ink = svg.expert(expert)
  d:rect(x, y, CELL - 2, CELL - 8, { fill = fill, rx = 2 }, tip)
  if changed then d:rect(x, y, CELL - 2, CELL - 8, FRAME) end
  d:text(x + (CELL - 2) / 2, y + 13.5, expert, { anchor = 'middle', fill = ink, size = 11,
    weight = changed and '700' or '400' })
end

local function draw_rank(d, x, y, topology, rank, experts, before)
  d:text(x + (CELL - 2) / 2, y + 10, rank, { anchor = 'middle', size = 9.5, fill = '#5b626b' })
  local first = topology.first_slot[rank]
  for slot = 0, topology:slots_of(rank) - 1 do
    local expert = experts[first + slot]
    local was = before and before[first + slot] or expert
    cell(d, x, y + LABEL + slot * (CELL - 6), expert, was ~= expert,
      ('rank %d, slot %d: expert %d%s'):format(rank, slot, expert,
        was ~= expert and (', was %d'):format(was) or ''))
  end
end

local function most_slots(topology, first, last)
  local most = 0
  for rank = first, last do most = math.max(most, topology:slots_of(rank)) end
  return most
end

local function draw_node(topology, node, experts, before)
  local first, last = topology:ranks_of(node)
  local count = last - first + 1
  local columns, rows = math.min(count, A_ROW), math.ceil(count / A_ROW)
  local band = LABEL + most_slots(topology, first, last) * (CELL - 6) + 6
  local d = svg.open { width = math.max(columns * (CELL + GAP - 2) + 4, 76),
    height = 18 + rows * band,
    title = ('node %d, ranks %d to %d: expert in each slot'):format(node, first, last) }
  d:text(2, 12, ('node %d'):format(node), { weight = '600' })
  for rank = first, last do
    local i = rank - first
    draw_rank(d, 2 + i % A_ROW * (CELL + GAP - 2), 18 + math.floor(i / A_ROW) * band, topology,
      rank, experts, before)
  end
  return d
end

--- experts, before: C arrays of the experts of all slots; before may be nil. nodes: list of the
-- nodes to draw (default: all).
-- : Topology, int32_t[slots], int32_t[slots]?, list of integer? -> string
function layout_map.draw(topology, experts, before, nodes)
  local maps = {}
  for node = 0, topology.nodes - 1 do
    local wanted = not nodes
    for _, other in ipairs(nodes or {}) do wanted = wanted or other == node end
    if wanted then maps[#maps + 1] = draw_node(topology, node, experts, before) end
  end
  return maps
end

--- Several drawings as HTML, side by side where there is room.
-- : list of string -> string
function layout_map.html(maps)
  local parts = {}
  for i, map in ipairs(maps) do parts[i] = ('<span class="map">%s</span>'):format(tostring(map)) end
  return ('<div class="maps" style="display:flex;flex-wrap:wrap;gap:10px">%s</div>'):format(
    table.concat(parts))
end

return layout_map

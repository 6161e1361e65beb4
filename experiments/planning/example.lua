-- SPDX-License-Identifier: Apache-2.0

--- What does a planner do, and what does the split do? A case small enough to follow by hand.
--
-- 8 ranks in 2 nodes, 2 slots each, 8 experts; expert 0 is hot everywhere, expert 1 on node 0 and
-- expert 2 on node 1. Prints layouts and balance of static, LAER and neap, for the expected counts
-- and for counts that came out differently; with a folder as argument, draws the layouts there.
--
--   ./neap lua experiments/planning/example.lua [FOLDER]
--
-- Costs: a second.

local neap = require 'neap'
local ffi = neap.lib.ffi

local RANKS, EXPERTS = 8, 8
local topology = neap.topology.open { ranks = RANKS, node_size = 4, slots = 2, experts = EXPERTS }

--- Tokens of every rank for every expert: 100 each, and more for the hot ones.
local function counts(hot, near, far)
  local load = ffi.new('int64_t[?]', RANKS * EXPERTS)
  for rank = 0, RANKS - 1 do
    for expert = 0, EXPERTS - 1 do load[rank * EXPERTS + expert] = 100 end
    load[rank * EXPERTS] = hot
    load[rank * EXPERTS + (rank < 4 and 1 or 2)] = near
    load[rank * EXPERTS + (rank < 4 and 2 or 1)] = far
  end
  return load
end

local expected, actual = counts(800, 400, 100), counts(600, 500, 250)

local function balance(layout, rule, load)
  local split = neap.split.open(topology, rule)
  split:compute(layout, load)
  return split:balance()
end

local function show(name, rule, layout)
  print(('\n%s, split %s'):format(name, rule))
  print(tostring(layout))
  for _, case in ipairs { { 'expected', expected }, { 'actual', actual } } do
    local b = balance(layout, rule, case[2])
    print(('%-8s counts: imbalance %.3f, %4.1f %% of the tokens across nodes'):format(case[1],
      b.imbalance, 100 * b.inter_node / b.tokens))
  end
end

local function draw(folder, name, layout, before)
  for node, map in ipairs(neap.layout_map.draw(topology, layout:array(),
    before and before:array())) do
    local file = assert(io.open(('%s/layout-%s-%d.svg'):format(folder, name, node - 1), 'w'))
    file:write(tostring(map), '\n')
    file:close()
  end
end

local folder = ...
local layouts = {}
for _, name in ipairs { 'static', 'laer', 'neap' } do
  layouts[name] = neap.plan.open(name, topology):plan(expected, layouts.static, 1)
end
show('static', 'lite', layouts.static)
show('laer', 'lite', layouts.laer)
show('laer', 'minimax', layouts.laer)
show('neap', 'minimax', layouts.neap)
if folder then
  draw(folder, 'before', layouts.static)
  draw(folder, 'after', layouts.neap, layouts.static)
end

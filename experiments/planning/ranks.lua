-- SPDX-License-Identifier: Apache-2.0

--- What does a layout policy do for the ranks? The picture of README.md.
--
-- Replays a trace under the static layout and under neap, and draws the work of every rank at the
-- moment at which the trace is hardest, on one scale.
--
--   ./neap lua experiments/planning/ranks.lua [FILE.svg]
--
-- Costs: a second.

local neap = require 'neap'
local outputs = require 'neap.base.outputs'
local topologies = neap.topology

local GAP, WARM_UP = 8, 5
local NAMES = { static = 'Static layout', neap = 'Policy neap' }

local path = ...
local trace = neap.trace.open(neap.lib.home .. '/experiments/traces/e16k4.safetensors')
local topology = topologies.open { ranks = trace.ranks, experts = trace.experts,
  node_size = tonumber(trace.metadata.node_size), slots = tonumber(trace.metadata.slots) }
local moment = neap.evaluate.hardest(trace, WARM_UP)

--- Work of the ranks at that moment, and the largest / mean.
local function work_under(policy)
  local work = neap.evaluate.policy({ trace = trace, topology = topology, policy = policy,
    moment = moment, warm_up = WARM_UP }).work
  local sum, most = 0, 0
  for _, value in ipairs(work) do sum, most = sum + value, math.max(most, value) end
  return work, most, most * #work / sum
end

local POLICIES = { 'static', 'neap' }
local found, high = {}, 0
for i, policy in ipairs(POLICIES) do
  local work, most, imbalance = work_under(policy)
  found[i], high = { work = work, imbalance = imbalance }, math.max(high, most)
  print(('%-7s fullest rank %.3f x the mean'):format(policy, imbalance))
end

local parts, width, height = {}, 0, 0
for i, policy in ipairs(POLICIES) do
  local title = ('%s: fullest rank %.2f x the mean'):format(NAMES[policy],
    found[i].imbalance)
  local drawing = neap.chart.bars { title = title, unit = 'tokens', values = found[i].work,
    high = high, node_of = function(rank) return topology:node_of(rank) end }
  parts[i] = tostring(drawing):gsub('^<svg ', ('<svg x="%d" '):format(width))
  width, height = width + drawing.width + GAP, drawing.height
end
if path then
  outputs.write(path, ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" '
    .. 'height="%d" role="img"><title>Work of 32 ranks before and after</title>'
    .. '<rect width="100%%" height="100%%" fill="#fff"/>%s</svg>\n'):format(width - GAP, height,
    width - GAP, height, table.concat(parts)))
end

-- SPDX-License-Identifier: Apache-2.0

--- What work across nodes costs on a described cluster, as the split minimax takes it
-- (engine/split.lua): how much longer a step gets when more tokens cross nodes, over how much
-- longer it gets when experts have more to do. Both are simulated, so that what hides behind other
-- work counts as little as it should, and what waits for links that are busy as much.

local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local plan = require 'neap.engine.plan'
local splits = require 'neap.engine.split'
local step_program = require 'neap.simulate.step_program'

local ffi = lib.ffi

local far_price = {}

local MORE = 0.1  -- of all tokens, or of all work
local EACH = 1000 -- tokens of a source for an expert: scaled to the model's
local LEAST = 1e-6 -- of a step's time: less is none

--- Loads of a layer when routing is force-balanced, on static layouts; times: the work.
local function open_load(cost, share)
  local t = cost.topology
  local cells = t.ranks * t.experts
  local load, counts = ffi.new('double[?]', cells), ffi.new('int64_t[?]', cells)
  for i = 0, cells - 1 do load[i], counts[i] = EACH, EACH end
  local layout = plan.open('static', t):plan(load)
  local split = splits.open(t, 'minimax'):compute(layout, counts)
  local scale = share * cost:scale(cells * EACH)
  local weights = cost:weights(layout)
  return function(times) return cost:tokens(layout, split, times * scale) end, weights
end

--- More tokens on every node's uplink: a share of those of its ranks.
local function cross(cost, load, share)
  local t, m = cost.topology, cost.model
  local bytes = share * m.tokens * m.top_k * cost.op_cost:token_bytes() / #load.uplinks
  for _, uplinks in ipairs(load.uplinks) do
    for n = 0, t.nodes - 1 do
      uplinks[n] = uplinks[n] + MORE * bytes * (t.first_rank[n + 1] - t.first_rank[n])
    end
  end
  return load
end

--- cluster: cluster.open's, which loses the step that it has. cost: step_cost.open's of the same
-- machine. parts: that a micro-batch is cut into. From 0 to math.huge, where work hides behind what
-- the links are busy with anyway.
function far_price.of(cluster, cost, parts)
  if cost.topology.nodes == 1 then return 0 end
  local open, weights = open_load(cost, 1 / parts)
  local function seconds(load)
    local micro = { loads = {}, weights = {}, base = {} }
    for layer = 0, models.moe_layers(cost.model) - 1 do
      micro.loads[layer], micro.weights[layer] = load, weights
    end
    step_program.build(cluster, cost:step({ micro }, cost.model.tokens / parts))
    return cluster:run():report().seconds
  end
  local load, more = open(1), open(1 + MORE)
  more.ports, more.uplinks = load.ports, load.uplinks
  local before = seconds(load)
  local of_work, of_far = seconds(more) - before, seconds(cross(cost, open(1), 1 / parts)) - before
  if of_far < LEAST * before then return 0 end
  return of_work > LEAST * before and of_far / of_work or math.huge
end

return far_price

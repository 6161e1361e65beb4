-- SPDX-License-Identifier: Apache-2.0

--- FlexMoE as its rounds are described beside LAER-MoE: the expert with the most load per replica,
-- of all nodes together, gains one in every node, and the one with the least loses one there; up to
-- ten rounds per plan, from the active layout. A round is kept if it lowers the most loaded rank or
-- brings most and least closer; the first that does neither ends the plan. (The built-in flexmoe
-- chooses node by node and avoids second copies on a rank, and balances better than published.)
local ffi = require 'ffi'
local policy = require 'neap.policy'

local Flex = policy.define {
  name = 'published_flexmoe',
  doc = 'FlexMoE, its hot and cold expert chosen for all nodes at once',
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    rounds = { default = 10, min = 0, integer = true, doc = 'rounds per plan, at most' },
  },
  split = 'lite',
}

local doubles, ints = ffi.typeof 'double[?]', ffi.typeof 'int32_t[?]'

--- Tokens of every node for every expert, and of all: double[nodes * experts], double[experts].
local function sum_nodes(t, load)
  local by_node, all = doubles(t.nodes * t.experts), doubles(t.experts)
  for r = 0, t.ranks - 1 do
    for e = 0, t.experts - 1 do
      local cell, tokens = t.rank_node[r] * t.experts + e, load[r * t.experts + e]
      by_node[cell], all[e] = by_node[cell] + tokens, all[e] + tokens
    end
  end
  return by_node, all
end

--- Replicas of every expert, on every node and in all.
local function count(t, expert_of)
  local by_node, all = ints(t.nodes * t.experts), ints(t.experts)
  for r = 0, t.ranks - 1 do
    for slot = t.first_slot[r], t.first_slot[r + 1] - 1 do
      local e = expert_of[slot]
      local cell = t.rank_node[r] * t.experts + e
      by_node[cell], all[e] = by_node[cell] + 1, all[e] + 1
    end
  end
  return by_node, all
end

--- Work of every rank under the split lite, the most, and most / least.
local function weigh(s, expert_of)
  local t, here, all = s.t, count(s.t, expert_of)
  local pool, work, most, least = doubles(t.experts), doubles(t.ranks), 0, math.huge
  for cell = 0, t.nodes * t.experts - 1 do
    local e = cell % t.experts
    if here[cell] == 0 then pool[e] = pool[e] + s.by_node[cell] end
  end
  for r = 0, t.ranks - 1 do
    for slot = t.first_slot[r], t.first_slot[r + 1] - 1 do
      local e = expert_of[slot]
      local cell = t.rank_node[r] * t.experts + e
      work[r] = work[r] + (s.by_node[cell] / here[cell] + pool[e] / all[e]) * t.expert_cost[e]
    end
    most, least = math.max(most, work[r]), math.min(least, work[r])
  end
  return { work = work, most = most, ratio = most / least }
end

--- The expert with the most load per replica, and that with the least among those that have more
-- than one replica per node, if there is one.
local function extremes(s, expert_of)
  local t, _, replicas = s.t, count(s.t, expert_of)
  local share, hot, cold = doubles(t.experts), 0, nil
  for e = 0, t.experts - 1 do
    share[e] = s.all[e] / replicas[e]
    if share[e] > share[hot] then hot = e end
    if replicas[e] > t.nodes and (not cold or share[e] < share[cold]) then cold = e end
  end
  return hot, cold
end

--- In one node, the slot of cold on the least loaded rank that holds it becomes one of hot.
local function change(t, expert_of, node, work, hot, cold)
  local best, least = nil, math.huge
  for r = t.first_rank[node], t.first_rank[node + 1] - 1 do
    for slot = t.first_slot[r], t.first_slot[r + 1] - 1 do
      if expert_of[slot] == cold and work[r] < least then best, least = slot, work[r] end
    end
  end
  if best then expert_of[best] = hot end
end

function Flex:plan(ctx)
  local t, layout = ctx.topology, ctx.previous
  local s = { t = t }
  s.by_node, s.all = sum_nodes(t, ctx.history:sum(self.window).ptr)
  local best, tried = weigh(s, layout.expert_of), ints(t.slots)
  for _ = 1, self.rounds do
    local hot, cold = extremes(s, layout.expert_of)
    if not cold or cold == hot then break end
    ffi.copy(tried, layout.expert_of, t.slots * 4)
    for node = 0, t.nodes - 1 do change(t, tried, node, best.work, hot, cold) end
    local now = weigh(s, tried)
    if now.most >= best.most and now.ratio >= best.ratio then break end
    best = now
    ffi.copy(layout.expert_of, tried, t.slots * 4)
  end
  return layout
end

return Flex

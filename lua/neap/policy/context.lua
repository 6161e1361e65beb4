-- SPDX-License-Identifier: Apache-2.0

--- What a policy's hooks see: ctx. One for each layer.
--   ctx.step, ctx.layer      the step that the answer is for, and the layer
--   ctx.topology             ranks, nodes, slots, costs (engine/topology.lua)
--   ctx.history              loads of this layer (history.lua): :last(i) :mean(w) :sum(w) :len()
--   ctx.current              whether history's newest load is that of the very step (plans_on)
--   ctx.fetch_work           work (tokens x cost) that a rank computes forward while it fetches an
--                            expert late, on the cluster that is described; nil where none is
--   ctx.far_price            what work across nodes costs in the policy's split (far_price=), up to
--                            1e6; nil: nothing
--   ctx.previous             the active layout, as a layout builder
--   ctx.random               :uniform() :integer(n) :normal() :shuffle(list); depends on seed, step
--                            and layer alone
--   ctx:layout()             an empty layout (layout_builder.lua): :place(rank, expert)
--                            :spread(expert, n)
--   ctx:replicas(by_expert)  iterates (expert, count) for all slots, heaviest replica first
--   ctx:plan(name, options)  a layout by a built-in planner, as neap.plan.NAME(ctx, options)
--   ctx:cost(layout, load)   what a layout would cost under the exact split
--   ctx:split(rule)          in the split hook: the answer of a built-in rule

local lib = require 'neap.base.lib'
local plans = require 'neap.engine.plan'
local policy = require 'neap.policy'
local layout_builder = require 'neap.policy.layout_builder'
local history = require 'neap.policy.history'
local replicas = require 'neap.policy.replicas'
local split_builder = require 'neap.policy.split_builder'

local ffi, C = lib.ffi, lib.C

local context = {}

--- ---- random -----------------------------------------------------------------------------------

local Random = {}
Random.__index = Random

local function draw(self, kind)
  local value = kind(self.seed, self.stream, self.index)
  self.index = self.index + 1
  return value
end

--- In [0, 1).
-- : -> number
function Random:uniform()
  return draw(self, C.neap_random_uniform)
end

--- 0 to n - 1.
-- : integer -> integer
function Random:integer(n)
  return math.floor(self:uniform() * n)
end

--- A draw from the standard normal distribution.
-- : -> number
function Random:normal()
  return draw(self, C.neap_random_normal)
end

--- Shuffles a list in place (Fisher and Yates) and returns it.
-- : list -> list
function Random:shuffle(list)
  for i = #list, 2, -1 do
    local j = self:integer(i) + 1
    list[i], list[j] = list[j], list[i]
  end
  return list
end

--- ---- context ----------------------------------------------------------------------------------

local Context = {}
Context.__index = Context

--- tools: what the contexts of a policy share (runtime.lua makes it).
-- : table, integer, integer -> Context
function context.open(tools, layer, keep)
  local topology = tools.topology
  return setmetatable({
    tools = tools, topology = topology, layer = layer, step = 0, fetch_work = tools.fetch_work,
    far_price = tools.far_price,
    history = history.open(topology.ranks, topology.experts, keep),
    random = setmetatable({ seed = tools.seed, stream = layer, index = 0 }, Random),
  }, Context)
end

--- Makes ready for a hook at a step; expert_of[slots]: the active layout.
-- : integer, int32_t[slots]
function Context:enter(step, expert_of)
  self.step = step
  self.random.stream, self.random.index = step * 65536 + self.layer + 1, 0
  self.replica_work = nil
  self.previous = layout_builder.of(self.topology, expert_of)
end

--- An empty layout, whose spread balances the loads that replicas was last given.
-- : -> LayoutBuilder
function Context:layout()
  return layout_builder.open(self.topology, function(expert)
    return self.replica_work and self.replica_work[expert] or 1
  end)
end

--- by_expert[experts]: tokens of every expert. Layouts made afterwards balance these loads.
-- : double[experts] -> iterator of integer, integer
function Context:replicas(by_expert)
  local shape = self.topology
  local work, order = ffi.new('double[?]', shape.experts), {}
  for e = 0, shape.experts - 1 do
    local tokens = tonumber(by_expert[e])
    if not (tokens and tokens >= 0 and tokens < math.huge) then
      lib.raise('ARGUMENT', ('replicas: the load of expert %d is %s; it must be finite and >= 0')
        :format(e, tostring(by_expert[e])), 2)
    end
    work[e], order[e + 1] = tokens * shape.expert_cost[e], e
  end
  local counts = replicas.count(shape, work)
  for e = 0, shape.experts - 1 do work[e] = work[e] / counts[e] end
  self.replica_work = work
  table.sort(order, function(a, b) return work[a] > work[b] or work[a] == work[b] and a < b end)
  local i = 0
  return function()
    i = i + 1
    if order[i] then return order[i], counts[order[i]] end
  end
end

-- Options of ctx:plan that are not the planner's own.
local OWN = { load = true, window = true, recall = true, from = true }

--- options: a policy object, whose parameters are meant; or load (a load; default: the sum of the
-- last window), window (default 5), recall (steps that the planner sees one by one, instead of a
-- sum), from (a layout to start from; default: the active one), and the planner's own parameters. A
-- layout builder.
-- : string, table? -> LayoutBuilder
function Context:plan(name, options)
  local own, given = { window = plans.WINDOW }, {}
  options = policy.values(options) or options
  for key, value in pairs(options or {}) do
    if OWN[key] then own[key] = value else given[key] = value end
  end
  local tools = self.tools
  local planner = tools:planner(name, given)
  local before = own.from and tools:layout(own.from) or tools.before:set(self.previous.expert_of)
  local seed = C.neap_random_bits(self.random.seed, self.random.stream, 2 ^ 32)
  local recent = own.recall and self.history:recent(own.recall) or {}
  if #recent > 0 then
    planner:plan_history(recent, before, seed, tools.scratch)
  else
    planner:plan(own.load or self.history:sum(own.window), before, seed, tools.scratch)
  end
  return layout_builder.of(self.topology, tools.scratch:array())
end

--- What a layout costs under the exact split of a load (default: the newest), at ctx.far_price:
-- what split:balance() returns (imbalance, max_work, …), and inter_node_share.
-- : layout, Load? -> table
function Context:cost(layout, load)
  load = load or self.history:last()
  local cells = self.topology.ranks * self.topology.experts
  local tokens = ffi.new('int64_t[?]', cells)
  for i = 0, cells - 1 do tokens[i] = math.floor(load.ptr[i] + 0.5) end
  local cost = self.tools:split('minimax'):compute(self.tools:layout(layout), tokens):balance()
  cost.inter_node_share = cost.inter_node / math.max(1, cost.tokens)
  return cost
end

--- In the split hook: tokens of every source and slot (split_builder.lua), by a built-in rule or,
-- without one, all 0.
-- : string? -> SplitBuilder
function Context:split(rule)
  if not self.exact then
    lib.raise('ARGUMENT', 'ctx:split is for the split hook', 2)
  end
  local exact = self.exact
  local out = split_builder.open(self.topology, exact.layout, exact.load, exact.memory)
  exact.memory = nil -- a second one in the same hook gets its own
  if rule then out:fill(self.tools, rule) end
  return out
end

return context

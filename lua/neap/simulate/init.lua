-- SPDX-License-Identifier: Apache-2.0

--- Simulates training steps of a model on a described cluster under a policy: the policy plans and
-- splits as in training, on synthetic or recorded routing; the cluster tells how long it takes.
--
--   local s = simulate.open { cluster = 'a100x32', model = 'mixtral-8x7b-e8k2', policy = 'laer' }
--   local row = s:run(10)        -- the row of 10 steps (neap.runs.metrics)
--   s.cluster                    -- of the last step: spans, times, critical path
--   s:close()

local lib = require 'neap.base.lib'
local clusters = require 'neap.simulate.cluster'
local far_price = require 'neap.simulate.far_price'
local lateness = require 'neap.simulate.lateness'
local metrics = require 'neap.runs.metrics'
local models = require 'neap.simulate.models'
local summary = require 'neap.simulate.summary'
local series = require 'neap.base.series'
local step_cost = require 'neap.simulate.step_cost'
local step_program = require 'neap.simulate.step_program'
local sessions = require 'neap.policy.session'
local options = require 'neap.simulate.options'
local synth = require 'neap.engine.synth'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local simulate = {}

local Simulation = {}
Simulation.__index = Simulation

--- Force-balanced counts: every rank sends every expert the same; what cannot be cut evenly goes to
-- other experts from rank to rank.
local function balanced(m, ranks, out)
  local choices = m.tokens * m.top_k
  local each, rest = math.floor(choices / m.experts), choices % m.experts
  for i = 0, ranks * m.experts - 1 do out[i] = each end
  for rank = 0, ranks - 1 do
    for j = rank * rest, rank * rest + rest - 1 do
      local cell = rank * m.experts + j % m.experts
      out[cell] = out[cell] + 1
    end
  end
  return out
end

--- Where loads come from: recorded (a trace), else synthetic.
local function open_source(o)
  local m, t = o.model, o.trace
  if o.routing == 'balanced' then
    return function(_, _, out) return balanced(m, o.machine.ranks, out) end
  end
  if t then
    return function(step, layer, out) return t:load(step % t.steps, layer, out) end
  end
  local source = synth.open { ranks = o.machine.ranks, experts = m.experts, top_k = m.top_k,
    tokens = m.tokens, layers = o.distinct, sigma = m.load.sigma, tau = m.load.tau,
    rho = m.load.rho, seed = o.seed }
  return function(step, layer, out) return source:load(step, layer, out) end
end

--- Work of a token by expert, where experts differ.
local function expert_costs(model)
  if type(model.ffn) ~= 'table' or #model.ffn == 1 then return nil end
  return model.ffn
end

--- Tokens that all ranks send in a load, of the first step where a trace may vary.
local function counted_tokens(self)
  local t, m, sum = self.topology, self.model, 0
  if not self.options.trace then return m.tokens * m.top_k * t.ranks end
  self.source(0, 0, self.counts)
  for i = 0, t.ranks * t.experts - 1 do sum = sum + tonumber(self.counts[i]) end
  return math.max(1, sum)
end

--- Options: cluster and model (what their describe takes), policy, schedule (what schedule.resolve
-- takes), token_group and shard_group ('all', 'node', a number, or 'resident' for experts that
-- stay whole at home, with ep, the ranks that have a home of every one, 0: all), resident (experts
-- stay where a static layout has them, gradients travel), tensor (ranks that share attention),
-- parts (smaller micro-batches that one is cut into), elementwise (op_cost.lua), gradient_bytes
-- (of a number of a gradient under way), accumulate (gradients are sent once per step), dense_last
-- (those of dense parameters when all are there, as the engine does, not layer by layer), unshard
-- and dispatch ('dtype', or 'fp8': parameters, and tokens to the experts, travel in FP8), slots
-- (per rank, of the policy's layouts; default: the model's), trace (trace.open's; default:
-- synthetic loads; its tokens are scaled to the model's), distinct (layers that have loads, plans
-- and splits of their own, the others repeat them; default: all, or as many as 2^22 numbers of
-- tokens are enough for), routing ('chosen' by the model or trace, or 'balanced': every expert
-- gets the same), seed, warm_up (micro-batches before the first step that counts), in_process,
-- trusted, strict, deadline. Raises USAGE.
-- : table -> Simulation
function simulate.open(given)
  local o = options.take(given)
  local self = setmetatable({ options = o, machine = o.machine, model = o.model }, Simulation)
  self.topology = topologies.open { ranks = o.machine.ranks, slots = o.slots,
    node_size = math.min(o.machine.node_size, o.machine.ranks), experts = o.model.experts,
    speed = o.machine.speed, cost = expert_costs(o.model), homes = o.homes }
  self.cluster = clusters.open(o.machine, self.topology)
  self.step_cost = step_cost.open(setmetatable({ topology = self.topology }, { __index = o }))
  self.source = open_source(o)
  self.counts = ffi.new('int64_t[?]', self.topology.ranks * self.topology.experts)
  self.session = sessions.open { topology = self.topology, layers = o.distinct, policy = o.policy,
    seed = o.seed, in_process = o.in_process, trusted = o.trusted, strict = o.strict, wait = true,
    known = true, deadline = o.deadline,
    fetch_work = self.step_cost:fetch_work(counted_tokens(self)),
    far_price = function() return far_price.of(self.cluster, self.step_cost, o.parts) end }
  self.step_cost.plans_now = self.session.plans_on == 'current' or self.session.plans_on == 'both'
  self.micro_batches, self.balance, self.late_bytes = 0, series.balance(), 0
  self.lateness = lateness.open(o.machine.plan or 0, o.distinct)
  self.spent = { loads = 0, plan = 0, split = 0, price = 0, simulate = 0 }
  return self
end

--- ---- one micro-batch --------------------------------------------------------------------------

--- Adds the time that an action took to an account.
local function timed(self, account, action, ...)
  local began = C.neap_clock()
  local result = action(...)
  self.spent[account] = self.spent[account] + C.neap_clock() - began
  return result
end

--- What a layer's tokens and parameters cost, after its split.
local function price(self, micro, layer, split, share)
  local balance = split:balance()
  self.balance:add(balance)
  if self.recorder then self.recorder:balance(balance) end
  local layout = self.session:layout(layer)
  local cost = self.step_cost
  local base = self.session:late_base(layer)
  micro.loads[layer] = cost:tokens(layout, split, share * cost:scale(balance.tokens), base)
  micro.weights[layer], micro.base[layer] = cost:weights(layout, base)
end

--- Plans, splits and prices the next micro-batch; scored: its balance counts. share: of its tokens
-- (tensor parallelism cuts a micro-batch into smaller ones).
local function next_micro_batch(self, scored, share)
  local s, step, micro = self.session, self.micro_batches, { loads = {}, weights = {}, base = {} }
  timed(self, 'plan', s.advance, s, step)
  for layer = 0, self.options.distinct - 1 do
    timed(self, 'loads', self.source, step, layer, self.counts)
    timed(self, 'plan', s.plan_now, s, step, layer, self.counts)
    if scored then
      local split = timed(self, 'split', s.split, s, step, layer, self.counts)
      timed(self, 'price', price, self, micro, layer, split, share)
    end
    local planned_on = self.lateness:counts(step, layer, self.counts,
      8 * self.topology.ranks * self.topology.experts)
    if planned_on then timed(self, 'plan', s.record, s, step, layer, planned_on) end
  end
  local layers = models.moe_layers(self.model)
  for layer = self.options.distinct, layers - 1 do
    local same = layer % self.options.distinct
    micro.loads[layer], micro.weights[layer] = micro.loads[same], micro.weights[same]
    micro.base[layer] = micro.base[same]
  end
  for layer = 0, scored and layers - 1 or -1 do
    self.late_bytes = self.late_bytes + (micro.weights[layer].late_bytes or 0)
  end
  self.micro_batches = step + 1
  return micro
end

--- ---- steps ------------------------------------------------------------------------------------

local function run_program(self, micro, tokens)
  step_program.build(self.cluster, self.step_cost:step(micro, tokens))
  return self.cluster:run():report()
end

--- Simulates the next step and leaves it in self.cluster. Returns cluster:report().
-- : -> table
function Simulation:step()
  if self.micro_batches < self.options.warm_up then
    repeat next_micro_batch(self, false) until self.micro_batches == self.options.warm_up
    self.session:forget_late()
  end
  local parts, micro = self.options.parts, {}
  for _ = 1, self.model.micro_batches do
    local one = next_micro_batch(self, true, 1 / parts)
    for _ = 1, parts do micro[#micro + 1] = one end
  end
  local report = timed(self, 'simulate', run_program, self, micro, self.model.tokens / parts)
  self.lateness:learn(self.cluster, self.model.micro_batches)
  return report
end

--- The row of so many steps (summary.lua), and spent (seconds that loads, plan, split, price and
-- simulate took here, for all steps with their warm-up), distinct. recorder: of the run store, or
-- nil.
-- : integer, table? -> table, table
function Simulation:run(steps, recorder)
  local sums = summary.open()
  self.recorder = recorder
  for step = 1, steps do
    local report, of_step = self:step(), summary.open()
    sums:add(report, self.cluster)
    of_step:add(report, self.cluster)
    if recorder then recorder:step(step - 1, of_step:row(), self.session) end
  end
  local row = sums:row(self.balance)
  for name, value in pairs(self.session:report()) do row[name] = value end
  row.steps, row.ranks, row.seed = steps, self.topology.ranks, self.options.seed
  row.bytes_per_step = row.late_experts and { late = self.late_bytes / steps } or nil
  row.spent, row.distinct = self.spent, self.options.distinct
  return metrics.complete(row)
end

--- Ends the policy's worker and frees the rest.
function Simulation:close()
  self.session:close()
  self.cluster:close()
end

return simulate

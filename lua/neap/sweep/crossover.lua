-- SPDX-License-Identifier: Apache-2.0

--- Where which way of keeping experts is fastest: on one cluster, over the number of experts, the
-- tokens of a rank, and how many ranks share a set of all experts (E / C of sharded ones, the
-- degree of resident ones). Steps are simulated (neap.simulate), memory is looked at.
--
--   for _, cell in ipairs(crossover.run { machine =, model =, experts = { 8, 64 }, … }) do … end

local errors = require 'neap.base.errors'
local memory = require 'neap.train.simulated_memory'
local models = require 'neap.simulate.models'
local simulate = require 'neap.simulate'

local crossover = {}

--- What is compared; best is the fastest of their policies. spare: slots besides the homes, as a
-- share of these. With all experts on every rank there is nothing to balance: single says what a
-- system is then, nil if it is none.
crossover.systems = {
  { name = 'resident', doc = 'plain EP', policies = { 'static' }, resident = true,
    single = 'static' },
  { name = 'fsep', doc = 'sharded, by the history', policies = { 'neap' }, single = 'static' },
  { name = 'late', doc = 'replicas by the current counts', resident = true,
    policies = { 'moonep:on=current', 'ultraep:on=current', 'llep:on=current' }, spare = 0.25 },
}

--- The model with so many experts. keep: 'ffn', each as large as the model's, and as many of a
-- token; 'parameters', all together as large, and a token computes as much. nil where that is no
-- whole number.
function crossover.model(m, experts, keep)
  if keep == 'ffn' then
    return models.describe(m, { experts = experts, top_k = math.min(m.top_k, experts) })
  end
  local ffn, top_k = m.ffn * m.experts / experts, m.top_k * experts / m.experts
  if ffn % 1 ~= 0 or top_k % 1 ~= 0 then return nil end
  return models.describe(m, { experts = experts, ffn = ffn, top_k = top_k })
end

--- Ranks that may share a set of all experts, ascending: those of given that can, else all experts
-- on every rank, a node's ranks, and as many as can.
function crossover.degrees(machine, experts, given)
  local list, most = {}, 1
  local function fits(degree) return experts % degree == 0 and machine.ranks % degree == 0 end
  for degree = 1, math.min(machine.ranks, experts) do
    if fits(degree) then most = degree end
  end
  local wanted = {}
  for _, degree in ipairs(given or { 1, machine.node_size, most }) do
    wanted[degree] = fits(degree)
  end
  for degree = 1, math.min(machine.ranks, experts) do
    if wanted[degree] then list[#list + 1] = degree end
  end
  return list
end

local function policies_of(system, degree)
  if degree > 1 then return system.policies end
  return system.single and { system.single } or {}
end

--- Settings of a simulation.
local function settings(o, m, system, policy, degree)
  local homes = m.experts / degree
  local spare = system.spare and math.max(1, math.ceil(system.spare * homes)) or 0
  return { cluster = o.machine, policy = policy, schedule = o.schedule, slots = homes + spare,
    shard_group = system.resident and 'resident' or 'all', ep = system.resident and degree or 0,
    routing = o.routing, seed = o.seed, distinct = 1, dispatch = o.dispatch,
    unshard = not system.resident and o.unshard or nil,
    model = models.describe(m, { layers = math.min(o.layers, models.moe_layers(m)),
      dense_layers = 0 }) }
end

local function measure(o, m, system, policy, degree)
  local given = settings(o, m, system, policy, degree)
  local s = simulate.open(given)
  local row = s:run(o.steps)
  local of = memory.of(setmetatable({ model = m }, { __index = s.options }), row.imbalance.max)
  s:close()
  return { experts = m.experts, tokens = m.tokens, system = system.name, policy = policy,
    degree = degree, slots = given.slots, step_ms = row.step_ms, fits = of.fits,
    share_of_ideal = row.share_of_ideal, imbalance = row.imbalance,
    memory = { lean = of.lean, engine = of.engine, capacity = of.capacity } }
end

--- The fastest row of a system that fits, or nil.
local function best_of(rows, system)
  local best
  for _, row in ipairs(rows) do
    if row.system == system and row.fits ~= 'no' and (not best or row.step_ms < best.step_ms) then
      best = row
    end
  end
  return best
end

--- winner: the system with the fastest row that fits, nil if none does; lead: by how much longer
-- the next system's fastest takes, a share, nil if it is the only one.
local function judge(cell)
  local first, second
  for _, system in ipairs(crossover.systems) do
    local row = cell.best[system.name]
    if row and (not first or row.step_ms < first.step_ms) then
      first, second = row, first
    elseif row and (not second or row.step_ms < second.step_ms) then
      second = row
    end
  end
  cell.winner = first and first.system
  cell.lead = second and second.step_ms / first.step_ms - 1
  return cell
end

local function cell_of(o, experts, tokens, degrees)
  local m = crossover.model(models.describe(o.model, { tokens = tokens }), experts, o.keep)
  local cell = { experts = experts, tokens = tokens, rows = {}, best = {} }
  for _, system in ipairs(m and crossover.systems or {}) do
    for _, degree in ipairs(degrees) do
      for _, policy in ipairs(policies_of(system, degree)) do
        cell.rows[#cell.rows + 1] = measure(o, m, system, policy, degree)
      end
    end
    cell.best[system.name] = best_of(cell.rows, system.name)
  end
  return judge(cell)
end

--- o: machine and model (described), experts and tokens (lists), degrees (list, or nil: degrees'),
-- keep ('ffn' or 'parameters'), schedule, routing (kind: 'chosen' or 'balanced'), steps, seed,
-- layers (that are simulated, at most; memory is that of all), unshard and dispatch (as
-- simulate.open), progress (function(done, cell), or
-- nil). Returns a list of cells, by experts, then tokens: experts, tokens, rows (each system,
-- policy and degree), best (row by system), winner, lead; where no degree divides the experts, or
-- keep cannot make them, without rows. Raises USAGE.
function crossover.run(o)
  local cells = {}
  if o.keep == 'parameters' and type(o.model.ffn) == 'table' then
    errors.usage('--keep=parameters: the experts of the model differ in size; that is for equal '
      .. 'ones')
  end
  for _, experts in ipairs(o.experts) do
    local degrees = crossover.degrees(o.machine, experts, o.degrees)
    for _, tokens in ipairs(o.tokens) do
      cells[#cells + 1] = cell_of(o, experts, tokens, degrees)
      if o.progress then o.progress(#cells, cells[#cells]) end
    end
  end
  return cells
end

return crossover

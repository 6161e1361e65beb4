-- SPDX-License-Identifier: Apache-2.0

--- What the steps of a real training would take on a described cluster: its routing, layouts and
-- splits are priced as init.lua prices synthetic ones. neap run --device=sim trains on the CPU
-- and prices them so.
--
--   local a = recipe_pricing.open { machine =, model =, topology =, schedule =, … }
--   a:layer(layer, layout, split, counted)   -- of the layers of a step, as they are split
--   a:step()                        -- its row (summary.lua); the cluster keeps the step
--   a:row(balance)                  -- the row of all steps

local clusters = require 'neap.simulate.cluster'
local errors = require 'neap.base.errors'
local far_price = require 'neap.simulate.far_price'
local summary = require 'neap.simulate.summary'
local models = require 'neap.simulate.models'
local step_cost = require 'neap.simulate.step_cost'
local step_program = require 'neap.simulate.step_program'

local recipe_pricing = {}

local RecipePricing = {}
RecipePricing.__index = RecipePricing

local GRADIENT_BYTES = 4

--- The machine of a name or file with so many ranks (nil: its own). Raises USAGE.
function recipe_pricing.machine(cluster, ranks)
  return clusters.describe(cluster, { ranks = ranks })
end

--- Whose steps are priced: another model than the trained one, by name, or that one (described
-- by its trainer's parameters). Raises USAGE where the experts differ.
function recipe_pricing.model(name, p, ranks)
  if not name then return models.trained(p, ranks, 2) end
  local m = models.describe(name)
  if m.experts ~= p.experts then
    errors.usage('--as=%s has %d experts; the recipe trains %d (--experts=%d)', name, m.experts,
      p.experts, m.experts)
  end
  return m
end

--- o: machine, model, topology, layers (that are trained; the model's repeat them), schedule (all
-- fields), shard_group, unshard and dispatch ('fp8', or nil).
function recipe_pricing.open(o)
  local self = setmetatable({ model = o.model, layers = o.layers,
    cluster = clusters.open(o.machine, o.topology), loads = {}, weights = {}, base = {},
    sums = summary.open() }, RecipePricing)
  self.step_cost = step_cost.open { machine = o.machine, model = o.model, topology = o.topology,
    schedule = o.schedule, tensor = 1, elementwise = 1, token_group = 'all',
    shard_group = o.shard_group, gradient_bytes = GRADIENT_BYTES, accumulate = false,
    resident = false, unshard = o.unshard, dispatch = o.dispatch }
  return self
end

--- counted: tokens of all ranks. base: the layout that the layer began the step with, if parameters
-- have travelled late.
function RecipePricing:layer(layer, layout, split, counted, base)
  self.loads[layer] = self.step_cost:tokens(layout, split, self.step_cost:scale(counted),
    base)
  self.weights[layer], self.base[layer] = self.step_cost:weights(layout, base)
end

--- What a late fetch of an expert costs, in work of loads of so many tokens (step_cost.lua).
function RecipePricing:fetch_work(counted)
  return self.step_cost:fetch_work(counted)
end

--- What work across nodes costs (far_price.lua).
function RecipePricing:far_price()
  return far_price.of(self.cluster, self.step_cost, 1)
end

function RecipePricing:step()
  local one, micro = { loads = {}, weights = {}, base = {} }, {}
  for layer = 0, models.moe_layers(self.model) - 1 do
    local same = layer % self.layers
    one.loads[layer], one.weights[layer] = self.loads[same], self.weights[same]
    one.base[layer] = self.base[same]
  end
  for i = 1, self.model.micro_batches do micro[i] = one end
  step_program.build(self.cluster, self.step_cost:step(micro, self.model.tokens))
  local report, of_step = self.cluster:run():report(), summary.open()
  self.sums:add(report, self.cluster)
  of_step:add(report, self.cluster)
  return of_step:row()
end

function RecipePricing:row(balance)
  return self.sums:row(balance)
end

function RecipePricing:close()
  self.cluster:close()
end

return recipe_pricing

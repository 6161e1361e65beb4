-- SPDX-License-Identifier: Apache-2.0

--- An optimizer of one's own: a rule in Lua for ranges of elements, in AdamW's place. All else is
-- as with AdamW (nn/optimizer.lua): gradients are summed over ranks and clipped, every rank updates
-- its range, experts' shards among them, and checkpoints hold parameters and moments.
--
--   local sgd = OwnOptimizer.new(parameters, { rate = 0.1, update = function(range)
--     for i = 0, range.count - 1 do
--       range.param[i] = range.param[i] - range.rate * range.scale * range.grad[i]
--     end
--   end })
--
-- update gets a table: count; grad, param, m, v, arrays of so many elements, float or double, of
-- which m and v are 0 at first and what the rule makes of them; step, from 1; rate; scale, what
-- gradients are to be multiplied by (clipping); decay, the weight decay of these elements. It
-- writes param, and m and v as it likes. Ranges are cut anywhere: a rule that looks at one element
-- at a time gives the same bits on any number of ranks. On a GPU the arrays are copies in host
-- memory.

local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'
local AdamW = require('neap.nn.optimizer').AdamW

local OwnOptimizer = setmetatable({}, { __index = AdamW })
OwnOptimizer.__index = OwnOptimizer

local PARTS = { grad = 'gradient', param = 'parameter', m = 'moment1', v = 'moment2' }

--- given: what AdamW takes, and update. Collective.
-- : Parameters, table -> OwnOptimizer
function OwnOptimizer.new(parameters, given)
  local options, update = {}, given.update
  if type(update) ~= 'function' then
    lib.raise('ARGUMENT', ('optimizer: update is a %s; it must be a function'):format(type(update)),
      2)
  end
  for name, value in pairs(given) do options[name] = value end
  options.update = nil
  local self = setmetatable(AdamW.new(parameters, options), OwnOptimizer)
  self.rule, self.range_of_rule, self.host = update, {}, {}
  return self
end

local function apply(self, count, arrays, decay, scale)
  local range = self.range_of_rule
  for name in pairs(PARTS) do range[name] = arrays[name]:data() end
  range.count, range.decay, range.scale = count, decay, scale
  range.step, range.rate = self.done + 1, self:next_rate()
  self.rule(range)
end

--- A part of the dense parameters.
local function update_dense(self, part, decay, scale)
  local arrays = {}
  for name in pairs(PARTS) do arrays[name] = part[name]:host() end
  apply(self, part.count, arrays, decay, scale)
  for name in pairs(PARTS) do
    if name ~= 'grad' and arrays[name] ~= part[name] then part[name]:copy(arrays[name]) end
  end
end

--- The shards of a layer's experts, by way of arrays that all layers share.
local function update_shards(self, store, scale)
  local count, arrays = store:owned(), self.host
  for name, part in pairs(PARTS) do
    if not arrays[name] or arrays[name].count ~= count then
      arrays[name] = tensor.new_host(tensor.acc_of(store.dtype), count)
    end
    store:take(part, arrays[name]:data())
  end
  apply(self, count, arrays, self.decay, scale)
  for name, part in pairs(PARTS) do
    if name ~= 'grad' then store:put(part, arrays[name]:data()) end
  end
end

--- In AdamW's place: one step on this rank's ranges. scale: of gradients.
-- : number
function OwnOptimizer:update(scale)
  for i, part in ipairs(self.parts) do
    if part.count > 0 then update_dense(self, part, i == 1 and self.decay or 0, scale) end
  end
  for _, store in ipairs(self.shards) do
    if store:owned() > 0 then update_shards(self, store, scale) end
  end
end

return OwnOptimizer

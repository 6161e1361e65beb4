-- SPDX-License-Identifier: Apache-2.0

--- When expert parameters and gradients travel: unshards and reduces of all layers, as a schedule
-- says (nn/schedule.lua), through buffers that the layers take in turn.
--
-- A layer whose parameters are still in a buffer is not fetched again: after a forward, that is so
-- for the last ones. If its layout has changed since (a policy has planned on the exact counts),
-- only the slots that differ are. Layers count from 0.

local tensor = require 'neap.engine.tensor'
local timeline = require 'neap.engine.timeline'

local Pipeline = {}
Pipeline.__index = Pipeline

--- Parameters of the largest expert of all stores.
local function widest(stores)
  local size = 0
  for layer = 0, #stores do size = math.max(size, stores[layer]:slot_size()) end
  return size
end

local function buffers(count, dtype, slots, size)
  local list = {}
  for i = 0, count - 1 do list[i] = tensor.new(dtype, slots, size) end
  return list
end

--- stores: the shard store of every layer, from index 0. schedule: with all fields. slots: of this
-- rank; nil: only the buffers' turns matter, as in a simulation. layout(layer): the active layout.
-- same(a, b): whether two are; copy(layout, old): a layout to be kept, perhaps in an old one.
-- dtype, exact: of parameters, and whether gradients are F64.
function Pipeline.new(options)
  local schedule, layers = options.schedule, #options.stores + 1
  local self = setmetatable({
    stores = options.stores, layout = options.layout, schedule = schedule,
    kept = math.min(schedule.keep, layers), gradient_kept = math.min(schedule.gradients, layers),
    same = options.same, copy = options.copy, fetched = {}, holder = {}, fetching = {},
    reducing = {}, weights_of = {}, gradients_of = {},
  }, Pipeline)
  if not options.slots then return self end
  local size = widest(self.stores)
  self.weights_of = buffers(self.kept, options.dtype, options.slots, size)
  self.gradients_of = buffers(self.gradient_kept,
    options.exact and 'f64' or tensor.acc_of(options.dtype), options.slots, size)
  return self
end

--- ---- parameters -------------------------------------------------------------------------------

local function wait_for_weights(self, i)
  local transfer = self.fetching[i]
  if transfer then
    self.fetching[i] = nil
    transfer:wait()
  end
end

--- Forgets what the buffers hold: parameters or layouts may have changed.
function Pipeline:begin()
  for i = 0, self.kept - 1 do
    wait_for_weights(self, i)
    self.holder[i] = nil
  end
end

--- Starts to fetch a layer, unless its buffer has it.
function Pipeline:start(layer)
  local i = layer % self.kept
  if self.holder[i] == layer then return end
  local outer, layout = timeline.layer(layer), self.layout(layer)
  self.holder[i], self.fetched[i] = layer, self.copy(layout, self.fetched[i])
  self.fetching[i] = self.stores[layer]:unshard_start(layout, self.weights_of[i],
    self.schedule.unshard_parts)
  timeline.layer(outer)
end

--- The layout of a layer may have changed since it was fetched: starts to fetch what differs.
function Pipeline:change(layer)
  local i, layout = layer % self.kept, self.layout(layer)
  if self.holder[i] ~= layer or self.same(layout, self.fetched[i]) then return end
  wait_for_weights(self, i)
  local outer = timeline.layer(layer)
  self.fetching[i] = self.stores[layer]:unshard_changes_start(self.fetched[i], layout,
    self.weights_of[i])
  self.fetched[i] = self.copy(layout, self.fetched[i])
  timeline.layer(outer)
end

--- Tells where a layer is, 'attention' or 'dispatch': starts to fetch the layers that come after it
-- in a direction (1 forward, -1 backward), if that is what the schedule says and they exist.
function Pipeline:prefetch(at, layer, direction)
  if at ~= self.schedule.unshard_at then return end
  for distance = 1, self.schedule.unshard_ahead do
    local other = layer + direction * distance
    if self.stores[other] then self:start(other) end
  end
end

--- The parameters of a layer's slots, and the transfer by which they arrive, nil if they are there.
function Pipeline:weights(layer)
  self:start(layer)
  local i = layer % self.kept
  return self.weights_of[i], self.fetching[i]
end

--- The layer's experts have been computed: their transfer is done.
function Pipeline:wait_weights(layer)
  wait_for_weights(self, layer % self.kept)
end

--- ---- gradients --------------------------------------------------------------------------------

local function wait_for_reduce(self, i)
  local transfer = self.reducing[i]
  if transfer then
    self.reducing[i] = nil
    transfer:wait()
  end
end

--- The buffer for the gradients of a layer's slots, free to be written.
function Pipeline:gradients(layer)
  local i = layer % self.gradient_kept
  wait_for_reduce(self, i)
  return self.gradients_of[i]
end

local function start_reduce(self, layer, slot_tokens)
  local i, outer = layer % self.gradient_kept, timeline.layer(layer)
  self.reducing[i] = self.stores[layer]:reduce_start(self.layout(layer), self.gradients_of[i],
    slot_tokens)
  timeline.layer(outer)
end

--- Sends a layer's gradients to their owners, now or when the next layer's tokens are on their
-- way, if one comes. slot_tokens must stay as they are until then.
function Pipeline:reduce(layer, slot_tokens)
  if self.schedule.hold_reduce and layer > 0 then
    self.held = { layer = layer, slot_tokens = slot_tokens }
    return
  end
  start_reduce(self, layer, slot_tokens)
  if self.schedule.wait_reduce then wait_for_reduce(self, layer % self.gradient_kept) end
end

--- Starts what was held back.
function Pipeline:release()
  local held = self.held
  if held then
    self.held = nil
    start_reduce(self, held.layer, held.slot_tokens)
  end
end

--- Waits until all gradients have arrived.
function Pipeline:finish()
  self:release()
  for i = 0, self.gradient_kept - 1 do wait_for_reduce(self, i) end
end

return Pipeline

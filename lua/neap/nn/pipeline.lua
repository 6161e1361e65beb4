--- When expert parameters and gradients travel: unshards and reduces of all layers, through two
-- buffers of parameters and two of gradients that the layers take in turn.
--
-- Schedules:
--   none  every transfer starts when it is needed and is waited for at once;
--   laer  the unshard of layer l+1 starts after layer l's dispatch (backward: of l-1), so that it
--         runs under layer l's experts; the reduce of layer l+1 is held back until layer l's
--         backward dispatch is under way, and waited for when its buffer is needed again.
-- A layer whose parameters are still in a buffer is not fetched again: after a forward, that is so
-- for the last two. Layers count from 0.

local lib = require 'neap.lib'
local tensor = require 'neap.tensor'

local Pipeline = {}
Pipeline.__index = Pipeline

local SCHEDULES = { laer = true, none = true }
local BUFFERS = 2

--- stores: the shard store of every layer, from index 0. slots: of this rank. layout(layer): the
-- layout in force. dtype, exact: of parameters, and whether gradients are F64.
function Pipeline.new(options)
  if not SCHEDULES[options.schedule] then
    lib.raise('ARGUMENT', ("schedule '%s' is unknown%s; there are %s"):format(
      tostring(options.schedule), lib.hint(tostring(options.schedule), lib.sorted_keys(SCHEDULES)),
      table.concat(lib.sorted_keys(SCHEDULES), ', ')), 2)
  end
  local self = setmetatable({
    stores = options.stores, layout = options.layout, overlap = options.schedule ~= 'none',
    weights_of = {}, gradients_of = {}, holder = {}, fetching = {}, reducing = {},
  }, Pipeline)
  local grad_type = options.exact and 'f64' or options.dtype
  local size = self.stores[0]:slot_size()
  for layer = 1, #self.stores do size = math.max(size, self.stores[layer]:slot_size()) end
  for i = 0, math.min(BUFFERS, #self.stores + 1) - 1 do
    self.weights_of[i] = tensor.new(options.dtype, options.slots, size)
    self.gradients_of[i] = tensor.new(grad_type, options.slots, size)
  end
  return self
end

--- Forgets what the buffers hold: parameters or layouts may have changed.
function Pipeline:begin()
  for i = 0, BUFFERS - 1 do self.holder[i] = nil end
end

function Pipeline:start(layer)
  local i = layer % BUFFERS
  if self.holder[i] == layer then return end
  self.holder[i] = layer
  self.fetching[i] = self.stores[layer]:unshard_start(self.layout(layer), self.weights_of[i])
end

--- Starts to fetch a layer that will be needed next, if the schedule says so and it exists.
function Pipeline:prefetch(layer)
  if self.overlap and self.stores[layer] then
    self:start(layer)
  end
end

--- The parameters of a layer's slots, fetched and complete.
function Pipeline:weights(layer)
  local i = layer % BUFFERS
  self:start(layer)
  if self.fetching[i] then
    local transfer = self.fetching[i]
    self.fetching[i] = nil
    transfer:wait()
  end
  return self.weights_of[i]
end

local function wait_for_reduce(self, i)
  local transfer = self.reducing[i]
  if transfer then
    self.reducing[i] = nil
    transfer:wait()
  end
end

--- The buffer for the gradients of a layer's slots, free to be written.
function Pipeline:gradients(layer)
  local i = layer % BUFFERS
  wait_for_reduce(self, i)
  return self.gradients_of[i]
end

local function start_reduce(self, layer, slot_tokens)
  local i = layer % BUFFERS
  self.reducing[i] = self.stores[layer]:reduce_start(self.layout(layer), self.gradients_of[i],
    slot_tokens)
end

--- Sends a layer's gradients to their owners, now or after the next layer's backward dispatch.
-- slot_tokens must stay as they are until then.
function Pipeline:reduce(layer, slot_tokens)
  if self.overlap then
    self.held = { layer = layer, slot_tokens = slot_tokens }
  else
    start_reduce(self, layer, slot_tokens)
    wait_for_reduce(self, layer % BUFFERS)
  end
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
  for i = 0, BUFFERS - 1 do wait_for_reduce(self, i) end
end

return Pipeline

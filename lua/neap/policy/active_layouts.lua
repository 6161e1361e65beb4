-- SPDX-License-Identifier: Apache-2.0

--- The active layouts, one for each layer, the same on all ranks: rank 0 proposes new ones, an
-- advance takes them over everywhere, by one broadcast, and what all ranks then have is compared.
-- Within a step a layer's layout stays as it is, since its backward needs what its forward had;
-- only replace changes one, before that layer's tokens travel.

local lib = require 'neap.base.lib'
local layouts = require 'neap.engine.layout'
local plans = require 'neap.engine.plan'

local ffi = lib.ffi

local active_layouts = {}

local ActiveLayouts = {}
ActiveLayouts.__index = ActiveLayouts

local FIRST_WORDS = 16384 -- of the first broadcast, which is nearly always the only one

--- comm: nil for a rank alone. All layers start with the static layout.
function active_layouts.open(topology, layers, comm)
  local self = setmetatable({
    topology = topology, layers = layers, comm = comm, slots = topology.slots,
    root = not comm or comm:rank() == 0, scratch = layouts.open(topology), proposed = {},
    before = {}, replaced = {},
  }, ActiveLayouts)
  local no_load = ffi.new('double[?]', topology.ranks * topology.experts)
  local static = plans.open('static', topology):plan(no_load)
  for layer = 0, layers - 1 do self[layer] = layouts.open(topology):copy(static) end
  self.first_words = math.min(1 + layers * (1 + self.slots), FIRST_WORDS)
  return self
end

--- Rank 0: whether expert_of[slots] is a valid layout, and why it is not.
function ActiveLayouts:valid(expert_of)
  local ok, err = pcall(self.scratch.set, self.scratch, expert_of)
  return ok, not ok and err.message or nil
end

--- Rank 0: a valid expert_of[slots] is to become active at the advance to a step, or, if that has
-- been, at the next one.
function ActiveLayouts:propose(step, layer, expert_of)
  self.proposed[layer] = { step = step, layer = layer, expert_of = expert_of }
end

--- Proposals that are not active yet: a list, by layer ascending.
function ActiveLayouts:pending()
  local list = {}
  for layer = 0, self.layers - 1 do list[#list + 1] = self.proposed[layer] end
  return list
end

--- Takes the proposals that are due at a step, by layer ascending.
local function take_due(self, step)
  local due = {}
  for layer = 0, self.layers - 1 do
    local proposal = self.proposed[layer]
    if proposal and proposal.step <= step then
      due[#due + 1], self.proposed[layer] = proposal, nil
    end
  end
  return due
end

--- What changes, as words to broadcast: how many, then for each its layer and expert_of[slots].
local function pack(self, proposals)
  local changed = {}
  for _, proposal in ipairs(proposals) do
    if self.scratch:set(proposal.expert_of):changed(self[proposal.layer]) > 0 then
      changed[#changed + 1] = proposal
    end
  end
  local words = 1 + #changed * (1 + self.slots)
  local buffer = ffi.new('int32_t[?]', math.max(words, self.first_words))
  buffer[0] = #changed
  for i, proposal in ipairs(changed) do
    local at = 1 + (i - 1) * (1 + self.slots)
    buffer[at] = proposal.layer
    ffi.copy(buffer + at + 1, proposal.expert_of, self.slots * 4)
  end
  return buffer
end

local function share(self, buffer)
  if not self.comm then return buffer end
  local first = self.first_words
  buffer = buffer or ffi.new('int32_t[?]', first)
  self.comm:broadcast(buffer, first * 4)
  local words = 1 + buffer[0] * (1 + self.slots)
  if words <= first then return buffer end
  if not self.root then
    local whole = ffi.new('int32_t[?]', words)
    ffi.copy(whole, buffer, first * 4)
    buffer = whole
  end
  self.comm:broadcast(buffer + first, (words - first) * 4)
  return buffer
end

--- All ranks must now have the same layouts: the least and greatest hash of all are compared.
local function compare_hashes(self, step)
  if not self.comm then return end
  local hash = ffi.new 'int64_t'
  for layer = 0, self.layers - 1 do
    hash = hash * 31 + ffi.cast('int64_t', self[layer]:hash_bits())
  end
  local bounds = ffi.new('int64_t[2]', hash, bit.bnot(hash))
  self.comm:all_reduce(bounds, 2, 'i64', 'min')
  if bounds[0] ~= bit.bnot(bounds[1]) then
    lib.raise('COMM', ('session: ranks disagree about the layouts of step %d'):format(step))
  end
end

--- Rank 0's proposals become active on all ranks. Raises COMM if they then disagree.
local function take_over(self, step, proposals)
  local buffer = share(self, self.root and pack(self, proposals) or nil)
  for i = 0, buffer[0] - 1 do
    local at = 1 + i * (1 + self.slots)
    self[buffer[at]]:set(buffer + at + 1)
  end
  if buffer[0] > 0 then compare_hashes(self, step) end
end

--- The layout that a layer began the step with.
function ActiveLayouts:base(layer)
  return self.replaced[layer] and self.before[layer] or self[layer]
end

--- Collective, where a step begins: what has been proposed for it becomes active.
function ActiveLayouts:advance(step)
  self.replaced = {}
  take_over(self, step, self.root and take_due(self, step) or nil)
end

--- Collective, within a step and before a layer's tokens travel: a valid expert_of[slots] (rank 0;
-- nil: none) becomes active for this layer alone, in an order of slots that leaves experts where
-- they are. An older proposal for the layer is dropped.
function ActiveLayouts:replace(step, layer, expert_of)
  local proposals = {}
  self.before[layer] = (self.before[layer] or layouts.open(self.topology)):copy(self[layer])
  self.replaced[layer] = true
  if expert_of then
    self.aligned = self.aligned or layouts.open(self.topology)
    self.aligned:set(expert_of):align(self[layer])
    proposals[1] = { layer = layer, expert_of = self.aligned:array() }
    local pending = self.proposed[layer]
    if pending and pending.step <= step then self.proposed[layer] = nil end
  end
  take_over(self, step, proposals)
end

return active_layouts

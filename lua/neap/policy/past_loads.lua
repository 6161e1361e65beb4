-- SPDX-License-Identifier: Apache-2.0

--- The loads of the last steps of all layers, as exact counts: what a checkpoint keeps of a
-- policy's history.

local lib = require 'neap.base.lib'

local ffi = lib.ffi

local past_loads = {}

local PastLoads = {}
PastLoads.__index = PastLoads

local MOST_BYTES = 64 * 2 ^ 20 -- of a layer's loads

--- keep: how many loads of a layer stay, if that is not too much memory.
function past_loads.open(ranks, experts, layers, keep)
  local cells = ranks * experts
  local self = setmetatable({ ranks = ranks, experts = experts, layers = layers, cells = cells,
    keep = math.min(keep, math.max(1, math.floor(MOST_BYTES / (8 * cells)))), added = {},
    ring = {} }, PastLoads)
  for layer = 0, layers - 1 do self.added[layer], self.ring[layer] = 0, {} end
  return self
end

--- load: int64_t[ranks][experts], copied.
function PastLoads:add(layer, load)
  local at = self.added[layer] % self.keep + 1
  local slot = self.ring[layer][at] or ffi.new('int64_t[?]', self.cells)
  ffi.copy(slot, load, self.cells * 8)
  self.ring[layer][at] = slot
  self.added[layer] = self.added[layer] + 1
end

--- Loads of a layer that are there.
function PastLoads:count(layer)
  return math.min(self.added[layer], self.keep)
end

--- The load of so many steps back, 1 being the newest.
function PastLoads:load(layer, back)
  return self.ring[layer][(self.added[layer] - back) % self.keep + 1]
end

--- All of them, oldest first, in one array [layers][steps][ranks][experts], and steps: what the
-- layer with the fewest has.
function PastLoads:pack()
  local steps = math.huge
  for layer = 0, self.layers - 1 do steps = math.min(steps, self:count(layer)) end
  local out = ffi.new('int64_t[?]', math.max(1, self.layers * steps * self.cells))
  for layer = 0, self.layers - 1 do
    for back = steps, 1, -1 do
      ffi.copy(out + (layer * steps + steps - back) * self.cells, self:load(layer, back),
        self.cells * 8)
    end
  end
  return out, steps
end

--- What pack gave.
function past_loads.unpack(packed, layers, steps, ranks, experts)
  local self = past_loads.open(ranks, experts, layers, math.max(1, steps))
  for layer = 0, layers - 1 do
    for i = 0, steps - 1 do self:add(layer, packed + (layer * steps + i) * self.cells) end
  end
  return self
end

--- A load of other ranks: each expert's tokens, cut over the new ranks as if the old ranks' lay
-- side by side and every token were as likely to be in any place of its rank's.
local function recut(load, from, to, experts)
  local out = ffi.new('int64_t[?]', to * experts)
  for e = 0, experts - 1 do
    local before, taken, old = 0, 0, 0 -- tokens of whole old ranks; given away; next old rank
    for r = 0, to - 1 do
      local upto = (r + 1) * from / to
      while old + 1 <= upto do
        before, old = before + tonumber(load[old * experts + e]), old + 1
      end
      local part = old < from and (upto - old) * tonumber(load[old * experts + e]) or 0
      local total = math.floor(before + part + 0.5)
      out[r * experts + e] = total - taken
      taken = total
    end
  end
  return out
end

--- The same loads on another number of ranks: every expert has as many tokens as before.
function PastLoads:on(ranks)
  if ranks == self.ranks then return self end
  local other = past_loads.open(ranks, self.experts, self.layers, self.keep)
  for layer = 0, self.layers - 1 do
    for back = self:count(layer), 1, -1 do
      other:add(layer, recut(self:load(layer, back), self.ranks, ranks, self.experts))
    end
  end
  return other
end

return past_loads

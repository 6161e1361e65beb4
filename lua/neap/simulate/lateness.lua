-- SPDX-License-Identifier: Apache-2.0

--- How old the counts are that a layout was planned on, if plans take a time. One host plans all
-- layers, one after the other, each when its counts of a micro-batch are known; a plan is taken
-- over where a later micro-batch begins, and counts that come while the host is behind by more than
-- a micro-batch are dropped, as the engine drops them.
--
--   local l = lateness.open(machine.plan, layers)
--   l:learn(cluster, micro_batches)      -- of a step that was simulated
--   local old = l:counts(micro, layer, counts, bytes)   -- what the planner gets now, or nil

local ffi = require 'ffi'

local lateness = {}

local Lateness = {}
Lateness.__index = Lateness

local FARTHEST = 64 -- micro-batches

--- plan: seconds of a layer's plan; layers: that are planned.
function lateness.open(plan, layers)
  return setmetatable({ plan = plan, layers = layers, behind = {}, every = 1, kept = {} }, Lateness)
end

--- Seconds from the begin of a step to where rank 0 has the counts of a layer of its first
-- micro-batch, by layer.
local function arrivals(cluster)
  local list = {}
  for op = 0, #cluster.spans do
    local span = cluster.spans[op]
    if span.name == 'counts' and span.phase == 'forward' and span.micro == 0 then
      local _, finish = cluster:times(op)
      list[span.layer] = finish[0]
    end
  end
  return list
end

--- Takes over how long a micro-batch of the step that the cluster holds lasts.
function Lateness:learn(cluster, micro_batches)
  if self.plan == 0 then return end
  local lasts, came = cluster:report().seconds / micro_batches, arrivals(cluster)
  local ready = 0
  self.every = math.min(FARTHEST, math.max(1, math.ceil(self.layers * self.plan / lasts)))
  for layer = 0, self.layers - 1 do
    ready = math.max(ready, came[layer]) + self.plan
    self.behind[layer] = math.min(FARTHEST, math.ceil(ready / lasts) - 1)
  end
end

--- A layer's counts of a micro-batch have come: those that are planned on in time for the next one,
-- or nil. counts: of so many bytes; the caller's.
function Lateness:counts(micro, layer, counts, bytes)
  if self.plan == 0 then return counts end
  local kept = self.kept[layer] or {}
  self.kept[layer] = kept
  kept[micro], kept[micro - FARTHEST - 1] = ffi.string(counts, bytes), nil
  local old = micro - (self.behind[layer] or 0)
  if micro % self.every ~= 0 or not kept[old] then return nil end
  self.last = kept[old] -- stays while the pointer is used
  return ffi.cast('const int64_t *', self.last)
end

return lateness

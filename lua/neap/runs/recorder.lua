--- Hands the steps of one result to the run store.
--
--   local r = store:result(run, { policy = 'laer' })
--   r:balance(split:balance())                   -- every layer of a step
--   r:step(step, { loss = 1.2 }, session)        -- metrics by name; the rest is taken from session
--   r:close { imbalance = … }                    -- the summary
-- What it costs: a few microseconds a step; the file is written once a second (core/data/store.c).

local lib = require 'neap.base.lib'
local json = require 'neap.base.json'
local layouts = require 'neap.engine.layout'

local ffi, C = lib.ffi, lib.C

local recorder = {}

local Recorder = {}
Recorder.__index = Recorder

local places, count = {}, 0
while C.neap_store_metric(count) ~= nil do
  places[ffi.string(C.neap_store_metric(count))] = count
  count = count + 1
end

local function clear(self)
  self.imbalance, self.imbalance_max, self.std, self.layers = 0, 0, 0, 0
  self.tokens, self.inter_node = 0, 0
end

--- For Store:result.
function recorder.open(store, id)
  local self = setmetatable({
    store = store, id = id, values = ffi.new('double[?]', count), before = {},
    seen = { plan_ms = 0, split_us = 0, faults = 0, late = 0 },
  }, Recorder)
  clear(self)
  return self
end

--- Balance of a layer in the step under way: what split:balance() returns.
function Recorder:balance(balance)
  self.layers = self.layers + 1
  self.imbalance = self.imbalance + balance.imbalance
  self.imbalance_max = math.max(self.imbalance_max, balance.imbalance)
  self.std = self.std + balance.std_percent
  self.tokens, self.inter_node = self.tokens + balance.tokens,
    self.inter_node + balance.inter_node
end

local function take_balance(self)
  if self.layers == 0 then return end
  local values = self.values
  values[places.imbalance] = self.imbalance / self.layers
  values[places.imbalance_max] = self.imbalance_max
  values[places.std_percent] = self.std / self.layers
  values[places.inter_node_share] = self.tokens > 0 and self.inter_node / self.tokens or 0
  clear(self)
end

--- Mean of what a series has got since the last step; nothing if that is nothing.
local function mean_since(self, series, name)
  local first, sum = self.seen[name], 0
  for i = first + 1, series.count do sum = sum + series[i] end
  self.seen[name] = series.count
  if series.count > first then self.values[places[name]] = sum / (series.count - first) end
end

local function increase(self, session, name)
  self.values[places[name]] = session[name] - self.seen[name]
  self.seen[name] = session[name]
end

--- Hash of all layouts in force, and slots that changed since the last step.
local function take_layouts(self, session)
  local hash, changed = ffi.new 'uint64_t', 0
  for layer = 0, session.layers - 1 do
    local now = session:layout(layer)
    hash = hash * 31 + C.neap_layout_hash(now.ptr)
    local before = self.before[layer]
    if before then
      changed = changed + C.neap_layout_changed(now.ptr, before.ptr)
    else
      before = layouts.open(session.topology)
      self.before[layer] = before
    end
    before:copy(now)
  end
  self.values[places.slots_changed] = changed
  return hash
end

--- Ends a step. metrics: name = value, of those that core/data/store.c lists.
function Recorder:step(step, metrics, session)
  local values = self.values
  for i = 0, count - 1 do values[i] = 0 / 0 end
  take_balance(self)
  for name, value in pairs(metrics) do values[places[name]] = value end
  mean_since(self, session.plan_ms, 'plan_ms')
  mean_since(self, session.split_us, 'split_us')
  increase(self, session, 'faults')
  increase(self, session, 'late')
  local hash = take_layouts(self, session)
  lib.check(C.neap_store_record(self.store.ptr, self.id, step, values, hash))
end

--- Ends the result with its summary, a table that JSON can hold.
function Recorder:close(summary)
  lib.check(C.neap_store_flush(self.store.ptr))
  self.store:write('UPDATE results SET ended = ?, summary = ?, steps = '
    .. '(SELECT nullif(count(*), 0) FROM steps WHERE result = ?) WHERE id = ?', C.neap_time(),
    json.encode(summary), self.id, self.id)
end

return recorder

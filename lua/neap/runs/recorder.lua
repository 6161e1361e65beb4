-- SPDX-License-Identifier: Apache-2.0

--- Hands the steps of one result to the run store.
--
--   local r = store:result(run, { policy = 'laer' })
--   r:balance(split:balance())                   -- every layer of a step
--   r:step(step, { loss = 1.2 }, session)        -- a row as in metrics.lua; what session and the
--                                                -- balance tell is added
--   r:close { imbalance = … }                    -- the summary
-- What it costs: a few microseconds per step; the file is written once per second
-- (core/data/store.c).

local lib = require 'neap.base.lib'
local json = require 'neap.base.json'
local layouts = require 'neap.engine.layout'
local metrics = require 'neap.runs.metrics'
local moments = require 'neap.runs.moments'
local series = require 'neap.base.series'

local ffi, C = lib.ffi, lib.C

local recorder = {}

local Recorder = {}
Recorder.__index = Recorder

local stored = {}
for _, metric in ipairs(metrics.list) do
  if metric.stored then stored[#stored + 1] = metric end
end

--- For Store:result.
function recorder.open(store, id)
  return setmetatable({
    store = store, id = id, values = ffi.new('double[?]', #stored), before = {},
    seen = {}, -- of a session: see()
    of_step = series.balance(), moments = moments.open(store, id),
  }, Recorder)
end

--- Balance of a layer in the step under way: what split:balance() returns.
function Recorder:balance(balance)
  self.of_step:add(balance)
end

--- Counts of a layer in the step under way, int64_t[ranks][experts], layers in order: of a step now
-- and then they are kept, with its layouts (moments.lua).
function Recorder:load(step, layer, load, session)
  self.moments:load(step, layer, load, session)
end

local function take_balance(self, row)
  if self.of_step.imbalance.count == 0 then return end
  for name, value in pairs(self.of_step:summary()) do row[name] = value end
  self.of_step = series.balance()
end

--- Remembers how much a session has measured and counted so far.
local function see(self, session)
  for name, measured in pairs(session.measured) do self.seen[name] = measured.count end
  for name, count in pairs(session.counted) do self.seen[name] = count end
end

--- Puts into a row what a session has measured (the mean, if there is any) and counted since.
local function take_session(self, row, session)
  for _, metric in ipairs(stored) do
    local name, before = metric.name, self.seen[metric.name] or 0
    local measured, count = session.measured[name], session.counted[name]
    if measured and measured.count > before then
      metrics.put(metric, row, measured:recent(measured.count - before))
    elseif count then
      metrics.put(metric, row, count - before)
    end
  end
  see(self, session)
end

--- Hash of all active layouts, and slots that changed since the last step.
local function take_layouts(self, session)
  local hash, changed = ffi.new 'uint64_t', 0
  for layer = 0, session.layers - 1 do
    local now = session:layout(layer)
    hash = hash * 31 + now:hash_bits()
    local before = self.before[layer]
    if before then
      changed = changed + now:changed(before)
    else
      before = layouts.open(session.topology)
      self.before[layer] = before
    end
    before:copy(now)
  end
  return hash, changed
end

--- Hands the values of a step to the store, and keeps them if they are to be remembered.
local function put(self, step, hash)
  lib.check(C.neap_store_record(self.store.ptr, self.id, step, self.values, hash))
  self.store:notice()
  if not self.rows then return end
  local values = ffi.new('double[?]', #stored)
  ffi.copy(values, self.values, #stored * 8)
  self.rows[step + 1] = { values = values, hash = hash }
end

--- Ends a step. row: what the caller has measured of it; of it, metrics that are stored are kept.
function Recorder:step(step, row, session)
  local hash
  row.seconds = row.step_ms and row.step_ms / 1e3
  take_balance(self, row)
  take_session(self, row, session)
  hash, row.slots_changed = take_layouts(self, session)
  metrics.complete(row)
  for i, metric in ipairs(stored) do
    self.values[i - 1] = metrics.value(metric, row) or 0 / 0
  end
  put(self, step, hash)
end

--- ---- checkpoints -------------------------------------------------------------------------------

--- From now on the rows are kept for checkpoints too.
function Recorder:remember()
  self.rows = self.rows or {}
end

--- Adds to a checkpoint's writer the rows of all steps so far; returns the names of their columns.
function Recorder:save(writer)
  local names, count = {}, #self.rows
  for i, metric in ipairs(stored) do names[i] = metric.name end
  local values = ffi.new('double[?]', math.max(1, count * #stored))
  local hashes = ffi.new('uint64_t[?]', math.max(1, count))
  for i, row in ipairs(self.rows) do
    ffi.copy(values + (i - 1) * #stored, row.values, #stored * 8)
    hashes[i - 1] = row.hash
  end
  writer:add('rows', 'f64', { count, #stored }, values)
  writer:add('row_layouts', 'i64', { count }, hashes)
  return names
end

--- Writes rows of earlier steps, from step 0 on: values[count][names], double, and hashes[count];
-- session is where it was after them.
function Recorder:restore(names, values, hashes, count, session)
  local column = {}
  for i, name in ipairs(names) do column[name] = i - 1 end
  for step = 0, count - 1 do
    for i, metric in ipairs(stored) do
      local at = column[metric.name]
      self.values[i - 1] = at and values[step * #names + at] or 0 / 0
    end
    put(self, step, hashes[step])
  end
  see(self, session)
  take_layouts(self, session)
end

--- Ends the result with its row, without what its steps tell: a list of losses.
function Recorder:close(row)
  local summary = {}
  for name, value in pairs(row) do
    if name ~= 'losses' then summary[name] = value end
  end
  self.store:later('UPDATE results SET ended = ?, summary = ?, steps = '
    .. '(SELECT nullif(count(*), 0) FROM steps WHERE result = ?) WHERE id = ?', C.neap_time(),
    json.encode(summary, metrics.keys()), self.id, self.id)
end

return recorder

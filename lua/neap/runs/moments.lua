-- SPDX-License-Identifier: Apache-2.0

--- Loads and layouts of a training while it goes on: of a step now and then, at most one per second
-- and ever fewer, all layers' tokens by expert and layouts. A store has the table from the first
-- moment on that is written to it.
--
--   moments.open(store, result):load(step, layer, load, session)   -- every layer of every step
--   for _, moment in ipairs(moments.read(store, result, 2)) do … moment.loads[1][1] … end
--   local steps, layers = moments.steps(store, result)
--   for _, moment in ipairs(moments.of_layer(store, result, 0, steps)) do … moment.load[1] … end

local lib = require 'neap.base.lib'
local kept = require 'neap.runs.kept'

local C = lib.C

local moments = {}

local Moments = {}
Moments.__index = Moments

-- Seconds between moments: at least the first, and the time so far over the second, so that a day
-- has a thousand of them; and what the last one cost times the second, so that they take less than
-- 1 % of the time.
local SHORTEST, SHARE = 1, 128

local TABLE = 'CREATE TABLE IF NOT EXISTS moments(result INTEGER NOT NULL, step INTEGER NOT NULL, '
  .. 'loads TEXT NOT NULL, layouts TEXT NOT NULL, PRIMARY KEY(result, step)) WITHOUT ROWID'

--- For a recorder.
-- : store, integer -> Moments
function moments.open(store, result)
  return setmetatable({ store = store, result = result, began = C.neap_clock(), next = 0,
    loads = {}, layouts = {} }, Moments)
end

--- Tokens by expert, of all ranks, as JSON.
local function loads_of(load, topology)
  local list, ranks, experts = {}, topology.ranks, topology.experts
  for expert = 0, experts - 1 do
    local sum = 0
    for rank = 0, ranks - 1 do sum = sum + tonumber(load[rank * experts + expert]) end
    list[expert + 1] = ('%d'):format(sum)
  end
  return '[' .. table.concat(list, ',') .. ']'
end

--- Experts of each rank's slots, as JSON.
local function layout_of(layout, topology)
  local array, ranks = layout:array(), {}
  for rank = 0, topology.ranks - 1 do
    local slots = {}
    for slot = topology.first_slot[rank], topology.first_slot[rank + 1] - 1 do
      slots[#slots + 1] = ('%d'):format(array[slot])
    end
    ranks[rank + 1] = '[' .. table.concat(slots, ',') .. ']'
  end
  return '[' .. table.concat(ranks, ',') .. ']'
end

local function write(self, step)
  if not self.there then self.store:later(TABLE) end
  self.there = true
  self.store:later('INSERT OR REPLACE INTO moments(result, step, loads, layouts) '
    .. 'VALUES(?, ?, ?, ?)', self.result, step, '[' .. table.concat(self.loads, ',') .. ']',
    '[' .. table.concat(self.layouts, ',') .. ']')
end

--- Tells the counts of a layer, int64_t[ranks][experts]; layers in order. Of most steps nothing is
-- kept, which costs a comparison.
function Moments:load(step, layer, load, session)
  if step ~= self.step then
    local now = C.neap_clock()
    self.step, self.due = step, now >= self.next
    if self.due then self.next = now + math.max(SHORTEST, (now - self.began) / SHARE) end
  end
  if not self.due then return end
  local began = C.neap_clock()
  if layer == 0 then self.cost = 0 end
  self.loads[layer + 1] = loads_of(load, session.topology)
  self.layouts[layer + 1] = layout_of(session:layout(layer), session.topology)
  if layer == session.layers - 1 then write(self, step) end
  local now = C.neap_clock()
  self.cost = self.cost + now - began
  self.next = math.max(self.next, now + self.cost * SHARE)
end

--- Whether a store has any.
-- : store -> boolean
function moments.there(runs)
  return #runs:rows "SELECT 1 FROM sqlite_master WHERE name = 'moments'" > 0
end

--- The last moments of a result, at most so many, oldest first: step, loads[layer][expert] (tokens)
-- and layouts[layer][rank][slot] (experts); lists from 1.
-- : store, integer, integer -> table
function moments.read(runs, result, most)
  local list = {}
  for _, row in ipairs(moments.there(runs) and runs:rows('SELECT * FROM moments WHERE result = ? '
    .. 'ORDER BY step DESC LIMIT ?', result, most) or {}) do
    local where = ('%s: result %d, step %d'):format(runs.path, result, row.step)
    table.insert(list, 1, { step = row.step, loads = kept.facts(row.loads, where),
      layouts = kept.facts(row.layouts, where) })
  end
  return list
end

--- Whether a result has moments.
-- : store, integer -> boolean
function moments.of_result(runs, result)
  return moments.there(runs)
    and #runs:rows('SELECT 1 FROM moments WHERE result = ? LIMIT 1', result) > 0
end

--- Steps that a result has moments of, ascending, and how many layers.
-- : store, integer -> list of integer, integer
function moments.steps(runs, result)
  local list, layers = {}, 0
  for i, row in ipairs(moments.there(runs) and runs:rows('SELECT step, json_array_length(loads) '
    .. 'AS layers FROM moments WHERE result = ? ORDER BY step', result) or {}) do
    list[i], layers = row.step, row.layers
  end
  return list, layers
end

--- One layer at some steps of a result: list of step, load[expert] and layout[rank][slot]; lists
-- from 1. A step without a moment is left out.
-- : store, integer, integer, list of integer -> list of table
function moments.of_layer(runs, result, layer, steps)
  local list, path = {}, ('$[%d]'):format(layer)
  for _, step in ipairs(steps) do
    local where = ('%s: result %d, step %d'):format(runs.path, result, step)
    for _, row in ipairs(runs:rows('SELECT json_extract(loads, ?1) AS load, '
      .. 'json_extract(layouts, ?1) AS layout FROM moments WHERE result = ?2 AND step = ?3', path,
      result, step)) do
      list[#list + 1] = { step = step, load = kept.facts(row.load, where),
        layout = kept.facts(row.layout, where) }
    end
  end
  return list
end

--- Removes those of a run, within a change of the caller's.
-- : store, integer
function moments.remove(runs, run)
  if not moments.there(runs) then return end
  runs:write('DELETE FROM moments WHERE result IN (SELECT id FROM results WHERE run = ?)', run)
end

return moments

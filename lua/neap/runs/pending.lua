-- SPDX-License-Identifier: Apache-2.0

--- Writing to the run store while a run goes on. A store that another program has locked, or whose
-- disk is full, is no reason to end a training: what cannot be written waits in memory, is tried
-- again once a second, and at the end, if it still cannot be, goes to a file beside the store.
-- Methods of a store (store.lua).

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local ffi, C = lib.ffi, lib.C

local pending = {}

local SHORT, LONG = 50, 30000 -- milliseconds that a statement waits for a store in use

--- Writes all that waits, in its order. Raises what the store says.
local function write_waiting(self)
  lib.check(C.neap_store_flush(self.ptr))
  while self.waiting[1] do
    local entry = self.waiting[1]
    self:write(entry.sql, unpack(entry, 1, entry.count))
    table.remove(self.waiting, 1)
  end
end

--- Tells once that rows wait; why: what the store says.
local function tell_waiting(self, why)
  if self.told then return end
  self.told = true
  io.stderr:write(('neap: %s; what the run records waits in memory until it can be written\n')
    :format(why))
end

--- Writes what waits if that can be done within a time; returns whether nothing waits any more, and
-- why not.
local function catch_up(self, milliseconds)
  C.neap_store_patience(self.ptr, milliseconds)
  local ok, err = pcall(write_waiting, self)
  C.neap_store_patience(self.ptr, LONG)
  self.next_try = ok and 0 or C.neap_clock() + 1
  return ok, not ok and errors.describe(err)
end

--- Runs a statement that changes something, now or when the store can be written again.
function pending:later(sql, ...)
  self.waiting[#self.waiting + 1] = { sql = sql, count = select('#', ...), ... }
  if C.neap_clock() < self.next_try then return end
  local done, why = catch_up(self, SHORT)
  if not done then tell_waiting(self, why) end
end

--- After a step has been recorded: tries again what waits, and tells if rows do.
function pending:notice()
  if self.waiting[1] and C.neap_clock() >= self.next_try then catch_up(self, SHORT) end
  if not self.told and C.neap_store_waiting(self.ptr) > 0 then
    tell_waiting(self, ('store %s: cannot be written'):format(self.path))
  end
end

--- A value as SQL.
local function literal(value)
  if value == nil then return 'NULL' end
  if type(value) == 'boolean' then return value and '1' or '0' end
  if type(value) == 'number' then return ('%.17g'):format(value) end
  if value:find '%z' then
    return "CAST(x'" .. value:gsub('.', function(c) return ('%02x'):format(c:byte()) end)
      .. "' AS TEXT)"
  end
  return "'" .. value:gsub("'", "''") .. "'"
end

--- Appends text to a file; nil and why if that fails.
local function append(path, text)
  local file, why = io.open(path, 'a')
  if not file then return nil, why end
  file:write(text)
  return file:close()
end

local function sql_of(entry)
  local at = 0
  return (entry.sql:gsub('%?', function()
    at = at + 1
    return literal(entry[at])
  end))
end

--- Writes what waits to a file beside the store, as SQL: rows of steps first, since statements may
-- count them. Returns its path, or nil and why not.
local function spill(self)
  local path = ('%s.unsaved-%d.sql'):format(self.path, C.neap_time() * 1000)
  local ok, why = append(path, 'BEGIN IMMEDIATE;\n')
  if not ok then return nil, why end
  if C.neap_store_spill(self.ptr, path) ~= 0 then
    return nil, ffi.string(C.neap_error_message())
  end
  local lines = {}
  for i, entry in ipairs(self.waiting) do lines[i] = sql_of(entry) .. ';\n' end
  ok, why = append(path, table.concat(lines) .. 'COMMIT;\n')
  if not ok then return nil, why end
  self.waiting = {}
  return path
end

--- Ends the writing of a run: waits for the store, self.patience milliseconds (30 s), or tells
-- where the rest is.
function pending:flush()
  local done, why = catch_up(self, self.patience or LONG)
  local lost = tonumber(C.neap_store_waiting(self.ptr))
  if done and lost == 0 then
    if self.told then
      io.stderr:write(('neap: store %s: all is written now\n'):format(self.path))
    end
    return
  end
  local path, reason = spill(self)
  if path then
    io.stderr:write(('neap: %s; the rest of this run is in %s: sqlite3 %s < %s adds it\n'):format(
      why or 'store: rows found no memory', path, self.path, path))
  else
    io.stderr:write(('neap: %s, and %s: the rest of this run is not recorded\n'):format(
      why or 'store: rows found no memory', reason))
  end
end

return pending

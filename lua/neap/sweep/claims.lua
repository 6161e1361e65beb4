-- SPDX-License-Identifier: Apache-2.0

--- Runs of a sweep are claimed in the store before they start, so that two sweeps, or a sweep and
-- a run made by hand, never do the same one twice. A claim is the run's row, which says that it is
-- running, with the process of the sweep; the run takes it over when it begins (Store:begin), and
-- one whose sweep has died counts as interrupted.

local lib = require 'neap.base.lib'
local provenance = require 'neap.runs.provenance'
local sweep = require 'neap.sweep'

local claims = {}

--- Takes a run of a plan for this sweep: the id of its row; or nil, the state that it is in already
-- and the row that says so.
function claims.take(runs, entry, name)
  local boot, host = provenance.boot()
  local pid, now = provenance.process(), lib.C.neap_time()
  runs:write 'BEGIN IMMEDIATE'
  local ok, id, state, row = pcall(function()
    local found, other = sweep.state(runs, entry.key)
    if found == 'done' or found == 'running' then return nil, found, other end
    return runs:insert('runs', { kind = entry.kind, key = entry.key, sweep = name,
      command = 'neap ' .. entry.kind .. ' ' .. table.concat(entry.words, ' '), state = 'running',
      host = host, boot = boot, pid = pid, pid_start = provenance.process_start(pid),
      started = now, heartbeat = now })
  end)
  runs:write(ok and 'COMMIT' or 'ROLLBACK')
  if not ok then error(id, 0) end
  return id, state, row
end

--- The row of a claimed run after its process has ended, and whether the run has told anything in
-- it. One that was started where it could not be told of the claim has a row of its own, which then
-- counts instead.
function claims.row(runs, entry)
  local row = runs:runs('id = ?', entry.run)[1]
  if row and row.pid ~= provenance.process() then return row, true end
  local others = runs:runs('key = ? AND id > ? AND started >= ?', entry.key, entry.run,
    entry.started)
  if #others == 0 then return row, false end
  claims.drop(runs, entry)
  return others[#others], true
end

--- Takes back a claim that its run has not taken over.
function claims.drop(runs, entry)
  runs:write("DELETE FROM runs WHERE id = ? AND state = 'running' AND pid = ?", entry.run,
    provenance.process())
end

return claims

-- SPDX-License-Identifier: Apache-2.0

--- What people say of runs in the store: tags, and a note each; and runs that are taken out of it.
-- A store has the tables for it from the first mark on.

local errors = require 'neap.base.errors'
local moments = require 'neap.runs.moments'

local marks = {}

local TABLES = {
  'CREATE TABLE IF NOT EXISTS tags(run INTEGER NOT NULL, tag TEXT NOT NULL, PRIMARY KEY(run, tag)) '
    .. 'WITHOUT ROWID',
  'CREATE TABLE IF NOT EXISTS notes(run INTEGER PRIMARY KEY, note TEXT NOT NULL)',
}

--- Whether a store has marks.
local function there(runs)
  return #runs:rows "SELECT 1 FROM sqlite_master WHERE name = 'tags'" > 0
end

--- Runs one or more statements as one change.
local function change(runs, f)
  runs:write 'BEGIN IMMEDIATE'
  local ok, err = pcall(f)
  runs:write(ok and 'COMMIT' or 'ROLLBACK')
  if not ok then error(err, 0) end
end

--- Adds tags (a list, sorted) and note to rows of runs.
function marks.add(runs, list)
  if not there(runs) then return end
  local by_id = {}
  for _, run in ipairs(list) do by_id[run.id] = run end
  for _, row in ipairs(runs:rows 'SELECT run, tag FROM tags ORDER BY run, tag') do
    local run = by_id[row.run]
    if run then
      run.tags = run.tags or {}
      table.insert(run.tags, row.tag)
    end
  end
  for _, row in ipairs(runs:rows 'SELECT run, note FROM notes') do
    if by_id[row.run] then by_id[row.run].note = row.note end
  end
end

--- Numbers of the runs with a tag, as a set. Raises USAGE if there are none.
function marks.tagged(runs, tag)
  local set, known = {}, {}
  for _, row in ipairs(there(runs) and runs:rows 'SELECT run, tag FROM tags ORDER BY tag' or {}) do
    if row.tag == tag then set[row.run] = true end
    if known[#known] ~= row.tag then known[#known + 1] = row.tag end
  end
  if next(set) == nil then
    errors.usage("no run has the tag '%s' in %s; there are: %s", tag, runs.path,
      #known > 0 and table.concat(known, ', ') or 'none')
  end
  return set
end

--- Marks runs, a list of rows. change_of: tag, untag (lists of names), note (a text; '': none).
function marks.set(runs, list, change_of)
  change(runs, function()
    for _, sql in ipairs(TABLES) do runs:write(sql) end
    for _, run in ipairs(list) do
      for _, tag in ipairs(change_of.tag or {}) do
        runs:write('INSERT OR IGNORE INTO tags(run, tag) VALUES(?, ?)', run.id, tag)
      end
      for _, tag in ipairs(change_of.untag or {}) do
        runs:write('DELETE FROM tags WHERE run = ? AND tag = ?', run.id, tag)
      end
      if change_of.note == '' then
        runs:write('DELETE FROM notes WHERE run = ?', run.id)
      elseif change_of.note then
        runs:write('INSERT OR REPLACE INTO notes(run, note) VALUES(?, ?)', run.id, change_of.note)
      end
    end
  end)
end

--- Takes runs, a list of rows, out of the store, with their results and steps. Raises USAGE if one
-- of them is running.
function marks.remove(runs, list)
  for _, run in ipairs(list) do
    if run.state == 'running' then
      errors.usage('run %d is running; end it first', run.id)
    end
  end
  local marked = there(runs)
  change(runs, function()
    for _, run in ipairs(list) do
      moments.remove(runs, run.id)
      runs:write('DELETE FROM steps WHERE result IN (SELECT id FROM results WHERE run = ?)', run.id)
      runs:write('DELETE FROM results WHERE run = ?', run.id)
      runs:write('DELETE FROM runs WHERE id = ?', run.id)
      for _, name in ipairs(marked and { 'tags', 'notes' } or {}) do
        runs:write(('DELETE FROM %s WHERE run = ?'):format(name), run.id)
      end
    end
  end)
end

return marks

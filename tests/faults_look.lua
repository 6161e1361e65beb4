-- SPDX-License-Identifier: Apache-2.0

--- What jobs have left in folders (tests/faults.sh): stores must be whole, checkpoints whole or
-- none, traces readable up to a whole step. A line for each that is not.

local checkpoint_folder = require 'neap.train.checkpoint_folder'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local store = require 'neap.runs.store'
local trace = require 'neap.engine.trace'

local function look_at_store(path)
  local runs = store.open(path)
  local rows = runs:rows 'PRAGMA integrity_check'
  runs:close()
  if rows[1].integrity_check ~= 'ok' then error(rows[1].integrity_check, 0) end
end

local function look_at_checkpoints(path)
  for _, training in ipairs(checkpoint_folder.trainings(path)) do
    for _, entry in ipairs(checkpoint_folder.steps(path, training)) do
      local manifest = entry.whole and checkpoint_folder.manifest(entry.path)
      for rank = 0, manifest and manifest.ranks - 1 or -1 do
        local file = checkpoint_folder.open(manifest, rank)
        file:check()
        file:close()
      end
    end
  end
end

local LOOKS = { ['runs.db'] = look_at_store, saved = look_at_checkpoints }

--- A trace that was begun is readable, or so short that it says nothing.
LOOKS['trace.safetensors'] = function(path)
  local ok, err = pcall(trace.open, path)
  if ok then err:close() elseif errors.code(err) ~= 'FORMAT' then error(err, 0) end
end

for _, place in ipairs { ... } do
  for _, name in ipairs(launcher.list(place)) do
    local ok, err = pcall(LOOKS[name] or function() end, place .. '/' .. name)
    if not ok then print(('%s/%s: %s'):format(place:match '[^/]*$', name, errors.text(err))) end
  end
end

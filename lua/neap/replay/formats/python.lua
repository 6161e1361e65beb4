-- SPDX-License-Identifier: Apache-2.0

--- Files that only Python reads, by convert.py: torch's .pt and Parquet. Its Python is that of
-- NEAP_PYTHON, else python3; numpy and torch, or pyarrow, must be there.

local arrays = require 'neap.replay.formats.arrays'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local programs = require 'neap.base.programs'

local python = {}

local CTYPES = { i2 = 'int16_t', i8 = 'int64_t' }

--- What the program said: its error, or the last line of a traceback.
local function complaint(path)
  local file, last = io.open(path), nil
  for line in file and file:lines() or function() end do
    if line:find '%S' then last = line end
  end
  if file then file:close() end
  return last
end

local function fail(told, program)
  local why = complaint(told)
  if not why then errors.plain('%s ended without a word', program) end
  if why:find 'NEAP_PYTHON' then errors.plain('%s', why) end
  if why:find 'No module named' then
    errors.plain('%s: %s; neap trace import needs numpy there, and torch for .pt or pyarrow for '
      .. 'Parquet. NEAP_PYTHON names another Python', program, why)
  end
  lib.raise('FORMAT', why, 2)
end

--- Adds what convert.py writes of files. kind: its first argument.
function python.add(counts, kind, paths, step_tokens)
  local program, told = os.getenv 'NEAP_PYTHON' or 'python3', os.tmpname()
  local words = { programs.quote(program), programs.quote(launcher.home
    .. '/lua/neap/replay/formats/convert.py'), kind }
  for _, path in ipairs(paths) do words[#words + 1] = programs.quote(path) end
  local pipe = io.popen(('%s 2>%s'):format(table.concat(words, ' '), programs.quote(told)), 'r')
  local function broken() fail(told, program) end
  local ok, err = pcall(function()
    while true do
      local about = json.decode(pipe:read '*l' or '')
      if not about then broken() end
      if about.kind == 'end' then return end
      if about.left_out and about.left_out > 0 then
        counts.notes[#counts.notes + 1] = ('%d passes without records of all ranks are left out')
          :format(about.left_out)
      end
      for name, value in pairs(about.metadata or {}) do counts.metadata[name] = value end
      arrays.add(counts, arrays.of_file(pipe, paths[1], about.shape, CTYPES[about.dtype], broken),
        about.kind, { step = about.step, layer = about.layer, step_tokens = step_tokens })
    end
  end)
  pipe:close()
  os.remove(told)
  if not ok then error(err, 0) end
end

return python

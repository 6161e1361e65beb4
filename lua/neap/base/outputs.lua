-- SPDX-License-Identifier: Apache-2.0

--- Files that a command writes: looked at before it begins, not after minutes of work, and there
-- whole or not at all.

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'

local outputs = {}

--- Whether a file can be written; nil and why if not. None is left that was not there.
local function try(path)
  local there = io.open(path)
  if there then there:close() end
  local file, why = io.open(path, 'a')
  if not file then return nil, why end
  file:close()
  if not there then os.remove(path) end
  return true
end

--- Raises USAGE unless the file can be written (- is stdout); option: what named it. A file that is
-- there stays as it is, and none is left.
function outputs.check(option, path)
  if not path or path == '' or path == '-' then return end
  local ok, why = try(path)
  if not ok then errors.usage('%s: %s', option, why) end
end

--- Writes a whole file (- is stdout), or leaves what was there; raises FAILED with the file's name
-- and why.
function outputs.write(path, text)
  if path == '-' then return io.stdout:write(text) end -- what fails is told when Neap ends
  local ok, err = pcall(lib.check, lib.C.neap_file_replace(path, text, #text))
  if not ok then errors.plain('%s', err.message) end
end

return outputs

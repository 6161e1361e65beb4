--- Files that a command is going to write: looked at before it begins, not after minutes of work.

local errors = require 'neap.base.errors'

local outputs = {}

--- Raises USAGE unless the file can be written; option: what named it. A file that is there stays
-- as it is, and none is left.
function outputs.check(option, path)
  if not path or path == '' then return end
  local there = io.open(path)
  if there then there:close() end
  local file, why = io.open(path, 'a')
  if not file then errors.usage('%s: %s', option, why) end
  file:close()
  if not there then os.remove(path) end
end

return outputs

--- What the program does with an error: who sees it, and which exit status it gives.

local lib = require 'neap.base.lib'

local errors = {}

local STATUS = { USAGE = 2, POLICY = 3, FORMAT = 5 }

--- Raises an error in how the program was called: one line, exit status 2.
function errors.usage(message, ...)
  error(setmetatable({ code = 'USAGE', message = message:format(...), where = '' }, lib.Error), 0)
end

--- Raises an error that is nobody's bug: one line, exit status 1.
function errors.plain(message, ...)
  error(setmetatable({ code = 'FAILED', message = message:format(...), where = '' }, lib.Error), 0)
end

--- Exit status of an error value.
function errors.status(err)
  return type(err) == 'table' and STATUS[err.code] or 1
end

--- Handler for xpcall: an error with a code is expected and stays as it is, any other is a bug in
-- a script or in Neap, and shows where it happened.
function errors.handler(err)
  if type(err) == 'table' and err.code then
    return err
  end
  return debug.traceback(tostring(err), 2)
end

-- Errors that lie outside of any script, so that a place in one would only distract.
local PLACELESS = { USAGE = true, FAILED = true, FORMAT = true, SYSTEM = true, ABSENT = true,
  BUSY = true }

--- Text for people.
function errors.text(err)
  return type(err) == 'table' and PLACELESS[err.code] and err.message or tostring(err)
end

--- Tells the error on stderr; prefix names a rank, or is ''.
function errors.tell(err, prefix)
  io.stdout:flush()
  io.stderr:write(('neap: %s%s\n'):format(prefix or '', errors.text(err)))
end

--- Tells a policy's faults on stderr: those that differ in step and layer alone as one.
function errors.tell_faults(messages)
  local order, times = {}, {}
  for _, message in ipairs(messages) do
    local kind = message:gsub('at step %d+, layer %d+', '', 1)
    if not times[kind] then order[#order + 1], times[kind] = { message, kind }, 0 end
    times[kind] = times[kind] + 1
  end
  for _, entry in ipairs(order) do
    local more = times[entry[2]] - 1
    io.stderr:write('neap: ', entry[1], more > 0 and (' (and %d times more)'):format(more) or '',
      '\n')
  end
end

return errors

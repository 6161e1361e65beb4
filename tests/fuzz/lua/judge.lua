-- SPDX-License-Identifier: Apache-2.0

--- What the code under test may do with an input: accept it, or raise an error of Neap's own.

local errors = require 'neap.base.errors'

--- Calls f(…); returns whether it was accepted, and what f returned. allowed: { CODE = true }.
return function(allowed, f, ...)
  local results = { xpcall(f, function(err)
    return errors.code(err) and err or { bug = debug.traceback(errors.describe(err), 2) }
  end, ...) }
  if results[1] then return true, unpack(results, 2) end
  local err = results[2]
  if err.bug then error(err.bug, 0) end
  local text = errors.text(err)
  if not allowed[errors.code(err)] then error(('%s: %s'):format(errors.code(err), text), 0) end
  if text == '' or #text > 4000 then error(('a message of %d bytes'):format(#text), 0) end
  return false
end

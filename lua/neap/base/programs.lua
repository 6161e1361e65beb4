-- SPDX-License-Identifier: Apache-2.0

--- Other programs that a command needs for a moment: one that is missing or fails is told by its
-- name, and what it said; never by a signal or by nothing.
--
--   programs.run('gzip -n <a >b', 'gzip')
--   programs.feed('gnuplot', 'gnuplot-nox', script)

local errors = require 'neap.base.errors'

local programs = {}

--- A word for the shell.
function programs.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read_and_remove(path)
  local file = io.open(path, 'rb')
  local text = file and file:read '*a' or ''
  if file then file:close() end
  os.remove(path)
  return text
end

--- Runs a shell command that begins with the program's name. package: Debian's, which has it.
-- Raises FAILED, with the first line that it wrote to stderr.
function programs.run(command, package)
  local name, told = command:match '^%S+', os.tmpname()
  if os.execute(('command -v %s >/dev/null 2>&1'):format(programs.quote(name))) ~= 0 then
    os.remove(told)
    errors.plain('%s is not installed; run: apt-get install %s', name, package)
  end
  local status = os.execute(('{ %s; } 2>%s'):format(command, programs.quote(told)))
  local text = read_and_remove(told)
  if status ~= 0 then
    errors.plain('%s failed: %s', name, text:match '[^\r\n]*%S[^\r\n]*' or 'it did not say why')
  end
end

--- Runs a program with a text as its input.
function programs.feed(program, package, text)
  local path = os.tmpname()
  local file, why = io.open(path, 'wb')
  if not file then errors.plain('%s', why) end
  file:write(text)
  local written, reason = file:close()
  if not written then errors.plain('%s', reason) end
  local ok, err = pcall(programs.run, ('%s <%s'):format(program, programs.quote(path)), package)
  os.remove(path)
  if not ok then error(err, 0) end
end

return programs

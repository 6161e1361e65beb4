-- SPDX-License-Identifier: Apache-2.0

--- Programs that run beside this one, and what Ctrl-C does meanwhile.
--
--   subprocess.catch_interrupts()    -- Ctrl-C is counted from now on: subprocess.interrupts()
--   local c = subprocess.open({ 'mpirun', '-n', '4', … }, { NAME = 'value' })
--   if c:ended() then print(c.status, c:output()) end
--   c:close()
--   local text = subprocess.read { 'git', 'rev-parse', 'HEAD' }      -- nil where that fails

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local subprocess = {}

local NOT_STARTED = 127
local PAUSE = 1e-3 -- seconds between looks at a program that is waited for

local Child = {}
Child.__index = Child

--- A C array of strings that ends with NULL; list keeps them alive.
local function strings(list)
  local array = ffi.new('const char *[?]', #list + 1)
  for i, text in ipairs(list) do array[i - 1] = text end
  return array
end

--- argv: program and arguments; environment: variables that it gets besides ours. Raises SYSTEM.
function subprocess.open(argv, environment)
  local names, values = lib.sorted_keys(environment or {}), {}
  for i, name in ipairs(names) do values[i] = environment[name] end
  local out = ffi.new 'neap_child *[1]'
  lib.check(C.neap_child_open(strings(argv), strings(names), strings(values), out), 2)
  return lib.handle(Child, out[0], C.neap_child_close)
end

--- Whether the program has ended; then self.status is its exit status, 128 + signal for a killed
-- one.
function Child:ended()
  local status = ffi.new 'int[1]'
  if C.neap_child_ended(self.ptr, status) == 0 then return false end
  self.status = status[0]
  return true
end

local CHUNK = 65536

local function read(self, errors)
  local buffer, parts, at = ffi.new('char[?]', CHUNK), {}, 0
  while true do
    local got = tonumber(C.neap_child_output(self.ptr, errors, at, buffer, CHUNK))
    if got == 0 then return table.concat(parts) end
    parts[#parts + 1], at = ffi.string(buffer, got), at + got
  end
end

--- What it has written to stdout, and to stderr.
function Child:output()
  return read(self, 0), read(self, 1)
end

--- Asks it to end, as Ctrl-C does; kill: does not ask.
function Child:stop(kill)
  C.neap_child_stop(self.ptr, kill and 1 or 0)
end

--- Kills it if it still runs, and forgets what it has written.
function Child:close()
  lib.close(self)
end

--- Runs a program to its end. What it has written to stdout if its status is 0, else nil; then
-- what it has written whatever its status ('' where it could not be started), and its status.
function subprocess.read(argv)
  local ok, child = pcall(subprocess.open, argv)
  if not ok then return nil, '', NOT_STARTED end
  while not child:ended() do launcher.sleep(PAUSE) end
  local said, status = child:output(), child.status
  child:close()
  return status == 0 and said or nil, said, status
end

function subprocess.catch_interrupts()
  C.neap_interrupts_catch()
end

function subprocess.interrupts()
  return C.neap_interrupts()
end

return subprocess

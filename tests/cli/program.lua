-- SPDX-License-Identifier: Apache-2.0

--- Runs the program as its users do, as a child process.

local launcher = require 'neap.launcher'

local program = { path = launcher.folder .. '/neap', home = launcher.home }

local function read_and_remove(path)
  local file = assert(io.open(path, 'rb'))
  local text = file:read '*a'
  file:close()
  os.remove(path)
  return text
end

--- Runs a shell command; returns exit status, stdout, stderr.
function program.shell(command)
  local out, err = os.tmpname(), os.tmpname()
  local pipe = io.popen(("(export NEAP_STORE=; %s) >'%s' 2>'%s'; echo $?"):format(command, out,
    err))
  local status = tonumber(pipe:read '*a')
  pipe:close()
  return status, read_and_remove(out), read_and_remove(err)
end

--- Of options that a text gives twice (--steps=2 … --steps=3) the later ones: tests say sizes first
-- and then what differs; neap refuses both.
local function latest(arguments)
  local last, parts, from = {}, {}, 1
  for at, name in arguments:gmatch '()%f[%S](%-%-[%w-]+)=' do last[name] = at end
  for at, name, past in arguments:gmatch '()%f[%S](%-%-[%w-]+)=%S*()' do
    if last[name] ~= at then
      parts[#parts + 1] = arguments:sub(from, at - 1)
      from = past
    end
  end
  return table.concat(parts) .. arguments:sub(from)
end

--- Runs neap with an argument text for the shell.
function program.run(arguments)
  arguments = latest(arguments)
  return program.shell(("'%s' %s </dev/null"):format(program.path, arguments))
end

--- Runs neap under mpirun on n processes.
function program.mpirun(n, arguments)
  arguments = latest(arguments)
  return program.shell(('OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 '
    .. "mpirun --oversubscribe -n %d '%s' %s </dev/null"):format(n, program.path, arguments))
end

return program

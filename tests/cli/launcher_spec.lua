-- SPDX-License-Identifier: Apache-2.0

--- The launcher, with a CMake and a ninja that only write down what they are called for.

local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

local TOOLS = {
  cmake = [[
echo "cmake $*" >>"$CALLS"
touch "$4/build.ninja"
cuda=$(echo "$*" | grep -o 'NEAP_CUDA=[a-z]*')
printf 'CMAKE_HOME_DIRECTORY:INTERNAL=%s\nNEAP_CUDA:STRING=%s\n' "$2" "${cuda#*=}" \
  >"$4/CMakeCache.txt"]],
  ninja = [[
echo "ninja $*" >>"$CALLS"
[ -z "$BROKEN" ] || { echo '[2/20] cc broken.c'; echo 'broken.c: error'; exit 1; }
for i in 1 20; do echo "[$i/20] cc"; done
printf '#!/bin/sh\necho "ran $*"\n' >"$2/neap"
chmod +x "$2/neap"]],
  ['nvidia-smi'] = 'exit 9',
}

local folder

local function write(path, text)
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
end

local function shell(command)
  return program.shell(command:gsub('@', folder))
end

--- Calls the launcher of the folder; what it called, a list, comes third.
local function launch(arguments, environment)
  os.remove(folder .. '/calls')
  local status, out, err = shell(('PATH=@/tools:$PATH CALLS=@/calls %s @/clone/neap %s')
    :format(environment or '', arguments))
  local file, calls = io.open(folder .. '/calls'), {}
  if file then
    for line in file:lines() do calls[#calls + 1] = line:match '^%S+' end
    file:close()
  end
  return status, out, calls, err
end

describe('the launcher', function()
  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    shell('mkdir -p @/tools @/clone/core @/clone/kernels; cp ' .. launcher.home
      .. '/neap @/clone; touch @/clone/CMakeLists.txt')
    for name, text in pairs(TOOLS) do
      write(folder .. '/tools/' .. name, '#!/bin/sh\n' .. text .. '\n')
    end
    shell 'chmod +x @/tools/*'
  end)
  after_each(function() shell 'rm -rf @' end)

  it('builds once, and again when a source has changed', function()
    local status, out, calls, err = launch 'doctor x'
    assert.are.equal(0, status, err)
    assert.are.equal('ran doctor x\n', out)
    assert.are.same({ 'cmake', 'ninja' }, calls)
    assert.matches('configuring and building', err)
    status, out, calls, err = launch 'doctor'
    assert.are.same({ 0, 'ran doctor\n', {}, '' }, { status, out, calls, err })
    shell 'sleep 0.01; touch @/clone/core/new.c'
    assert.are.same({ 'ninja' }, (select(3, launch 'doctor')))
    assert.are.same({}, (select(3, launch 'doctor')))
  end)

  it('notices that its clone has moved or was copied', function()
    launch 'doctor'
    shell 'cp -a @/clone @/other; rm -rf @/clone; mv @/other @/clone2; mv @/clone2 @/clone'
    assert.are.same({}, (select(3, launch 'doctor')))
    shell 'mkdir @/b; cp -r @/clone @/b/; rm -rf @/clone; ln -s @/b/clone @/clone'
    local status, out, calls, err = launch 'doctor'
    assert.are.equal(0, status, err)
    assert.are.same({ 'cmake', 'ninja' }, calls)
    assert.matches('this clone has moved', err)
    assert.are.equal('ran doctor\n', out)
  end)

  it('tells what does not compile, and runs nothing', function()
    local status, out, calls, err = launch('doctor', 'BROKEN=1')
    assert.are.same({ 1, '', { 'cmake', 'ninja' } }, { status, out, calls })
    assert.matches('broken.c: error', err)
    assert.are.same({ 'ninja' }, (select(3, launch 'doctor')))
  end)

  it('builds for GPUs as NEAP_CUDA says', function()
    local function configured()
      return select(2, shell 'sed -n s/NEAP_CUDA:STRING=//p @/clone/build/CMakeCache.txt')
    end
    launch 'doctor' -- no GPU answers
    assert.are.equal('off\n', configured())
    assert.are.same({ 'cmake', 'ninja' }, (select(3, launch('doctor', 'NEAP_CUDA=on'))))
    assert.are.equal('on\n', configured())
    assert.are.same({}, (select(3, launch 'doctor')))
    local status, _, _, err = launch('doctor', 'NEAP_CUDA=yes')
    assert.are.equal(2, status)
    assert.matches('on, off or auto', err)
  end)
end)

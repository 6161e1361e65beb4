-- SPDX-License-Identifier: Apache-2.0

--- neap kernel: Jupyter's kernel for Lua with the engine loaded (notebook/kernel.py and
-- main/notebook.lua).

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local programs = require 'neap.base.programs'
local subprocess = require 'neap.engine.subprocess'

local command = { doc = 'Install the Jupyter kernel for Lua.' }

command.examples = [[
Examples:
  neap kernel install                         for this user
  neap kernel install --prefix /usr/local     for all
Then open notebooks/write_a_policy.ipynb in Jupyter, or choose 'Lua (Neap)' for a new notebook.]]

local PYTHONS = { '/usr/bin/python3', 'python3' }
local PROBE = 'import ipykernel.kernelapp, ipykernel.kernelbase'

function command.options(parser)
  parser:require_command(true):command_target 'action'
  local install = parser:command('install', "Tell Jupyter about the kernel 'neap'.")
  install:option('--prefix', 'install into PREFIX/share/jupyter (default: for this user)')
    :argname '<folder>'
  install:option('--python', 'Python with ipykernel (default: the first that has it)')
    :argname '<program>'
end

local function find_python(asked)
  for _, python in ipairs(asked and { asked } or PYTHONS) do
    if subprocess.read { python, '-c', PROBE } then return python end
  end
  errors.plain('%s has no ipykernel; it comes with: apt-get install python3-ipykernel',
    asked or table.concat(PYTHONS, ' and '))
end

--- Where Jupyter looks for kernels.
local function data_folder(prefix)
  if prefix then return prefix .. '/share/jupyter' end
  local data = os.getenv 'JUPYTER_DATA_DIR'
  if data and data ~= '' then return data end
  local share = os.getenv 'XDG_DATA_HOME'
  if share and share ~= '' then return share .. '/jupyter' end
  local home = os.getenv 'HOME'
  if not home or home == '' then
    errors.usage 'HOME is not set, so there is no folder for this user: give --prefix FOLDER'
  end
  return home .. '/.local/share/jupyter'
end

function command.run(args)
  local python = find_python(args.python)
  local folder = data_folder(args.prefix) .. '/kernels/neap'
  programs.run('mkdir -p ' .. programs.quote(folder), 'coreutils')
  outputs.write(folder .. '/kernel.json', json.encode({
    argv = { python, lib.home .. '/lua/neap/notebook/kernel.py', '-f', '{connection_file}' },
    display_name = 'Lua (Neap)', language = 'lua', interrupt_mode = 'signal',
    env = { NEAP_PROGRAM = launcher.folder .. '/neap' },
  }, { 'argv', 'display_name', 'language', 'interrupt_mode', 'env' }) .. '\n')
  print(("the kernel 'Lua (Neap)' is in %s"):format(folder))
end

return command

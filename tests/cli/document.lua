-- SPDX-License-Identifier: Apache-2.0

--- What README.md and docs/*.md tell readers to do, as a test does it: files that they are told to
-- save, Lua blocks, and commands, in their order, in a folder that looks like the repository.
--
-- Python blocks that import neap are run by Debian's Python, where it has what they import.
--
-- A fenced block after "Save this as `NAME`", "`NAME`:" or "over `NAME`:" is a file. Other Lua
-- blocks are run. Commands are the lines of ```sh blocks and indented lines that call ./neap,
-- mpirun ./neap, or cc and the program that it makes, and what stands between single backticks and
-- begins with ./neap.

local program = require 'tests.cli.program'

local document = {}

local PYTHON = '/usr/bin/python3'

--- The first module that a block of Python imports and that is not installed, or nil.
local function lacks(block)
  for name in ('\n' .. block):gmatch '\n%s*import ([%w_]+)' do
    if name ~= 'neap' and program.shell(('%s -c "import %s"'):format(PYTHON, name)) ~= 0 then
      return name
    end
  end
  return block:find('frame()', 1, true) and not block:find 'import pandas'
    and lacks 'import pandas' or nil
end

--- Options of a command that contains the text, so that it ends in seconds.
local SMALLER = {
  { 'run experiments/quickstart.lua',
    '--steps=7 --batch=8 --sequence=16 --layers=1 --hidden=32 --ffn=32' },
  { 'sweep experiments/quickstart.lua', 'batch=8 sequence=16 layers=1 hidden=32 ffn=32' },
  { 'run experiments/deepseek_style.lua',
    '--steps=10 --batch=8 --sequence=16 --layers=2 --hidden=32 --ffn=32 --policies=static,neap' },
  { 'run race.lua', '--batch=8 --sequence=16 --layers=1 --hidden=32 --ffn=32' },
  { 'run own.lua', '--batch=8 --sequence=16 --layers=1 --hidden=32 --ffn=32' },
  { 'bench policy', '--repeats=100' },
  { 'planning/results.lua', 'experiments/traces/wide.safetensors' },
  { 'planning/kinds_table.lua', 's26' },
  { 'planning/share_optimum.lua', 's02@11' },
  { 'planning/step_times.lua', 'experiments/traces/e8k2.safetensors' },
  { 'experiments/paper/report.lua', 'paper seed_table' },
  { 'experiments/paper/fit.lua', '--seeds=1 --steps=1' },
  { 'simulate --cluster h100x256 -n', '--layers=5 --distinct=1' },
  { 'crossover --cluster h100x256', '--experts=16 --tokens=256 --layers=1' },
  { 'crossover --cluster h100x8', '--tokens=256 --layers=1' },
  { 'crossover --cluster nvl72', '--experts=64 --tokens=256 --layers=1' },
  { '--routing later --distinct=8', '--layers=2 --distinct=1' },
  { 'bench moe', '--tokens=64 --hidden=32 --ffn=32 --experts=4 --repeats=1' },
}

--- Commands that no test can run as they stand, and why.
local LEFT_OUT = {
  { '^%./neap test$', 'it is what runs this' },
  { '^%./neap test %-%-long$', 'takes an hour' },
  { '%-%-device=cuda', 'needs a GPU' },
  { '^%./neap suite$', 'takes hours' },
  { '…', 'an abbreviation' },
  { '^%./neap ui', 'serves until it is ended; tests/cli/ui_spec.lua starts it' },
  { 'COMMAND', 'stands for any command' },
  { 'pkg%-config', 'needs the installed tree, which tests/cli/install_spec.lua makes' },
}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read '*a'
  file:close()
  return text
end

--- Name of the file that a paragraph says the next block is.
local function file_name(line)
  return line:match 'ave this as `([^`]+)`:$' or line:match 'over `([^`]+)`:$'
    or line:match '`([%w_.]+)`:$'
end

local function is_command(line)
  return line:match '^%./%w+' or line:match '^mpirun .*%./neap%s' or line:match '^srun'
    or line:match '^cc%s'
end

--- Lines of a fenced block from the i-th on; returns its text and the line after it.
local function fenced(lines, i)
  local block = {}
  while lines[i] and not lines[i]:match '^```' do
    block[#block + 1] = lines[i]
    i = i + 1
  end
  return table.concat(block, '\n') .. '\n', i + 1
end

local function add_commands(tasks, text)
  for line in text:gsub('\\\n%s*', ' '):gmatch '[^\n]+' do
    line = line:gsub('%s+#.*$', ''):gsub('^%s*%$?%s*', '')
    if is_command(line) then tasks[#tasks + 1] = { command = line } end
  end
end

--- What a document asks for: list of { file =, text = }, { lua = text }, { python = text } and {
-- command = line }.
function document.tasks(path)
  local lines, tasks, i, name = {}, {}, 1, nil
  for line in (read(path) .. '\n'):gmatch '(.-)\n' do lines[#lines + 1] = line end
  while lines[i] do
    local line = lines[i]
    local language = line:match '^```(%w*)'
    i = i + 1
    if language then
      local text
      text, i = fenced(lines, i)
      if name then
        tasks[#tasks + 1] = { file = name, text = text }
      elseif language == 'lua' then
        tasks[#tasks + 1] = { lua = text }
      elseif language == 'python' and text:find 'import neap' then
        tasks[#tasks + 1] = { python = text }
      elseif language == 'sh' or language == '' then
        add_commands(tasks, text)
      end
    elseif line:match '^    ' then
      while line:match '\\$' and lines[i] do
        line = line:gsub('%s*\\$', ' ') .. lines[i]:gsub('^%s*', '')
        i = i + 1
      end
      add_commands(tasks, line)
    else
      for command in line:gmatch '`(%./neap%s[^`]*)`' do add_commands(tasks, command) end
    end
    if line ~= '' then name = not language and file_name(line) or nil end
  end
  return tasks
end

--- The command with options, name=value, instead of its own of the same name, or after the others.
local function with(command, options)
  for option in options:gmatch '%S+' do
    local name = option:match '^([^=]*=)'
    local from, to = (name and command or ''):find(' ' .. (name or ''), 1, true)
    if from then
      command = command:sub(1, from) .. option .. command:sub(to + 1):gsub('^%S*', '', 1)
    else
      command = command .. ' ' .. option
    end
  end
  return command
end

--- A command with fewer policies, and with few processes and runs under a launcher: they share two
-- cores.
local function fewer(command)
  local launched = command:find 'mpirun' or command:find '^srun'
  if command:find('run experiments/quickstart.lua', 1, true) and not command:find 'polic' then
    command = command .. (launched and ' --policies=neap' or ' --policies=static,neap')
  end
  if not launched then return command end
  return (command:gsub('%-n 16', '-n 4'):gsub('seed=0%.%.1', 'seed=0'))
end

--- The command as this build runs it: its program for ./neap, busted for ./neap test SPEC. What
-- would start on other hosts, or under Slurm, starts on this one.
local function adapt(command)
  for _, entry in ipairs(SMALLER) do
    if command:find(entry[1], 1, true) then command = with(command, entry[2]) end
  end
  if command:find ' sweep ' then
    command = command:gsub(' steps=%d+', ' steps=3'):gsub('seed=0%.%.%d+', 'seed=0..1')
  end
  command = fewer(command):gsub('%./neap test ', './neap lua tests/busted.lua ')
    :gsub('%-%-timeline%-step=%d+', '--timeline-step=3')
  return (command:gsub('%./neap', ("'%s'"):format(program.path))
    :gsub('%-%-host %S+ ', ''):gsub('^srun .-%-%-mpi=pmix ', 'mpirun -n 4 ')
    :gsub('mpirun ', 'mpirun --oversubscribe '))
end

local function left_out(command)
  for _, entry in ipairs(LEFT_OUT) do
    if command:find(entry[1]) then return true end
  end
end

local function write(path, text)
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
end

--- Makes a folder that looks like the repository: links, but copies of what commands may overwrite.
local function make_folder()
  local folder = os.tmpname()
  os.remove(folder)
  local status, _, err = program.shell(([[
    mkdir '%s' && ln -s '%s'/* '%s' && cd '%s' && rm -f runs.db* &&
    for file in *.safetensors; do
      [ ! -L "$file" ] || cp --remove-destination "$(readlink "$file")" "$file"
    done]]):format(folder, program.home, folder, folder))
  assert(status == 0, err)
  return folder
end

--- Runs one task in the folder; returns exit status, and what was done and said.
local function run(folder, task)
  if task.file then
    write(folder .. '/' .. task.file, task.text)
    return 0
  end
  local command = task.command and adapt(task.command)
  if task.lua then
    write(folder .. '/block.lua', task.lua)
    command = ("'%s' lua block.lua"):format(program.path)
  end
  if task.python then
    write(folder .. '/block.py', task.python)
    command = ("NEAP_LIBRARY='%s' PYTHONPATH=python %s block.py"):format(
      program.path:gsub('neap$', 'libneap.so'), PYTHON)
  end
  local status, out, err = program.shell(("cd '%s' && export OMPI_ALLOW_RUN_AS_ROOT=1 "
    .. 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 JUPYTER_DATA_DIR="$PWD/jupyter" && unset NEAP_STORE '
    .. '&& %s </dev/null'):format(folder,
    command))
  return status, command .. '\n' .. out .. err
end

--- The files of a folder that are no links, by name: when each was written, and its size. The run
-- store is not among them: every command adds to it.
local function files_in(folder)
  local _, listing = program.shell(("find '%s' -maxdepth 1 -type f ! -name 'runs.db*' "
    .. "-printf '%%f %%T@ %%s\\n'"):format(folder))
  local files = {}
  for name, state in listing:gmatch '(%S+) (%S+ %S+)\n' do files[name] = state end
  return files
end

--- Whether one of the tasks after the i-th names a file without being what writes it.
local function read_later(tasks, i, name)
  for j = i + 1, #tasks do
    local text = tasks[j].command or tasks[j].lua or tasks[j].python or ''
    if text:find(name, 1, true) then return tasks[j] end
  end
end

--- A later command must find what the reader has been told is there: none writes over a file that
-- an earlier one has made and a later one names.
local function check_spoiled(tasks, i, made, before, after)
  for name, state in pairs(after) do
    local later = made[name] and before[name] ~= state and not tasks[i].file
      and read_later(tasks, i, name)
    assert(not later, ('%s writes over %s, which an earlier command has made and %s reads'):format(
      tasks[i].command or 'a block', name, later and (later.command or later.lua or later.python)))
    if before[name] ~= state then made[name] = true end
  end
end

--- Defines the tests of a document (inside describe): it and the others are busted's.
function document.tests(path, it, setup, teardown, pending)
  local folder
  setup(function() folder = make_folder() end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)
  local tasks, made = document.tasks(program.home .. '/' .. path), {}
  for i, task in ipairs(tasks) do
    local title = task.command or task.file and 'save ' .. task.file
      or 'a block of ' .. (task.lua and 'Lua' or 'Python')
    if not (task.command and left_out(task.command)) then
      it(title, function()
        local missing = task.python and lacks(task.python)
        if missing then return pending('skipped: no ' .. missing) end
        local before = files_in(folder)
        local status, said = run(folder, task)
        assert(status == 0, said)
        check_spoiled(tasks, i, made, before, files_in(folder))
      end)
    end
  end
end

return document

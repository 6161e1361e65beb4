-- SPDX-License-Identifier: Apache-2.0

--- The command line. A command is a module { doc=, options=function(command), run=function(args,
-- full_parser), examples= (the end of its help), has_ranks= (whether every process of mpirun has
-- work) }; run returns the exit status (nil: 0) and raises
-- errors as base/errors.lua describes.

local argparse = require 'argparse'
local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

-- In the order of the help text.
local COMMANDS = {
  { 'run', 'neap.cli.run' },
  { 'replay', 'neap.cli.replay' },
  { 'simulate', 'neap.cli.simulate' },
  { 'crossover', 'neap.cli.crossover' },
  { 'try', 'neap.cli.try' },
  { 'calibrate', 'neap.cli.calibrate' },
  { 'report', 'neap.cli.report' },
  { 'bench', 'neap.cli.bench' },
  { 'suite', 'neap.cli.suite' },
  { 'sweep', 'neap.cli.sweep' },
  { 'compare', 'neap.cli.compare' },
  { 'runs', 'neap.cli.runs' },
  { 'ui', 'neap.cli.ui' },
  { 'watch', 'neap.cli.watch' },
  { 'trace', 'neap.cli.trace' },
  { 'checkpoint', 'neap.cli.checkpoint' },
  { 'policy', 'neap.cli.policy' },
  { 'kernel', 'neap.cli.notebook' },
  { 'doctor', 'neap.cli.doctor' },
  { 'completion', 'neap.cli.completion' },
  { 'manual', 'neap.cli.manual' },
}

local EPILOG = [[
neap lua FILE [ARG…] runs a Lua file with Neap's modules in reach; neap test runs the tests.
Results go to stdout, progress to stderr. Exit status: 0 done, 1 failed, 2 wrong usage,
3 a policy failed under --strict or was never in force, 5 corrupt input, 6 a rank hung,
130 interrupted.]]

-- Seconds that other ranks than 0 give it to tell what all of them found wrong, before they end the
-- job.
local COURTESY = 0.5

local function build_parser()
  local parser = argparse('neap', 'Load-adaptive expert layouts for Mixture-of-Experts training.',
    EPILOG)
  parser:flag('--version', 'Print the version.'):action(function()
    print('neap ' .. lib.version)
    os.exit(0)
  end)
  parser:command_target 'command'
  return parser
end

--- For a command that is one process's work: returns whether this process is one too many, since
-- Open MPI's mpirun has started several, so that results are printed once. Tasks of srun may have
-- been given work of their own, each. From here on this process knows of no others.
local function work_alone(name)
  local several = launcher.process_launcher == 'mpirun' and launcher.process_size > 1
  if several and launcher.process_rank == 0 then
    errors.note(('%s is the work of one process: of the %d that mpirun started, rank 0 does it')
      :format(name, launcher.process_size))
  end
  local others = several and launcher.process_rank > 0
  launcher.process_rank, launcher.process_size = nil, nil
  return others
end

--- Adds all commands to the parser; the named one with its options. Returns its module, the
-- arguments as it wants them parsed, and its parser (nil, arguments and root for an unknown name).
local function add_commands(root, name, words)
  local chosen, parser = nil, root
  for _, entry in ipairs(COMMANDS) do
    local module = require(entry[2])
    local command = root:command(entry[1], module.doc)
    if entry[1] == name then
      chosen, parser = module, command
      words = module.options(command, words) or words
      arguments.once(command)
      words = arguments.normalize(words, arguments.names(command))
      if module.examples then command:epilog(module.examples) end
    end
  end
  return chosen, words, parser
end

--- The parser with the options of all commands, for shells to complete.
local function full_parser()
  local root = build_parser()
  for _, entry in ipairs(COMMANDS) do
    local module = require(entry[2])
    module.options(root:command(entry[1], module.doc), { entry[1] })
  end
  return root
end

-- In the place of os.exit while a command runs, for a cluster, a sweep, a policy in process.
local no_exit = errors.no_exit('a file that Neap reads', 'it returns, or calls error')

local function main(words)
  require('neap.runs.provenance').arguments = words
  if #words == 0 then words = { '--help' } end
  local root = build_parser()
  local chosen, rewritten, command = add_commands(root, words[1], words)
  if chosen and not chosen.has_ranks and work_alone(words[1]) then return 0 end
  local message
  local ok, args = xpcall(function()
    return root:_parse(rewritten, function(_, text)
      message = arguments.wrong(command, text)
      error(message, 0)
    end)
  end, function(err) return message and err or errors.handler(err) end)
  if message then errors.usage('%s', message) end
  if not ok then error(args, 0) end
  rawset(os, 'exit', no_exit)
  return chosen.run(args, full_parser) or 0
end

-- main.c runs this file; require, which has marked the module by now, only loads it.
if package.loaded['neap.main.cli'] then return end

local ok, status = xpcall(main, errors.handler, { ... })
if ok then
  io.stdout:flush()
  return status
end
-- Under mpirun every process sees the same mistake; only rank 0 tells it. What is none has happened
-- in this process.
local mistake = errors.code(status) and (launcher.process_rank or 0) ~= 0
if not mistake and launcher.first_failure() then errors.tell(status) end
if mistake then launcher.sleep(COURTESY) end
return errors.status(status)

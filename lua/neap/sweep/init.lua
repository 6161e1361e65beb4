-- SPDX-License-Identifier: Apache-2.0

--- Sweeps: a grid of runs, as a Lua file or on the command line, and which of them are still to do.
--
--   return {                                      -- experiments/sweeps/policies.lua
--     name = 'policies', doc = 'Which policy balances best?',
--     kind = 'run',                               -- the command: 'run' (default), 'replay', …
--     script = 'experiments/quickstart.lua',      -- recipe, of kind 'run'
--     fixed = { steps = 60 },                     -- parameters and options, the same for all
--     grid = { policies = { 'static', 'laer' }, seed = '0..4' },
--   }
--
-- A run is known by the hash of all that decides its results (provenance.keys). One that the store
-- holds as done is never repeated, whoever has started it.

local argparse = require 'argparse'
local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local grid = require 'neap.sweep.grid'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local params = require 'neap.base.params'
local policies = require 'neap.policy'
local provenance = require 'neap.runs.provenance'
local recipe = require 'neap.train.recipe'
local sources = require 'neap.base.sources'
local sweeps = require 'neap.runs.sweeps'

local sweep = {}

local SPEC = {
  name = { type = 'string' }, doc = { type = 'string' }, kind = { type = 'string' },
  script = { type = 'string' }, fixed = { type = 'table' }, grid = { type = 'table' },
}

--- ---- definitions -------------------------------------------------------------------------------

local function check_kind(kind, commands)
  if commands[kind] then return kind end
  local names = lib.sorted_keys(commands)
  errors.usage("sweep: unknown kind '%s'%s; there are: %s", kind, lib.hint(kind, names),
    table.concat(names, ', '))
end

local function check_definition(path, definition)
  if type(definition) ~= 'table' then
    errors.usage('%s: is no sweep and no recipe: it must return a table with a grid', path)
  end
  local wrong = options.problem(definition, SPEC, path, 'field')
  if wrong then errors.usage('%s', wrong) end
end

local PLAIN = { number = true, string = true, boolean = true }

--- Whether a value is a list of what is_item says.
local function is_list(value, is_item)
  if type(value) ~= 'table' then return false end
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  for i = 1, count do
    if value[i] == nil or not is_item(value[i]) then return false end
  end
  return count > 0
end

local function is_plain(value)
  return PLAIN[type(value)] and value == value
end

local function is_value(value)
  return is_plain(value) or is_list(value, is_plain)
end

--- Raises USAGE unless all names are those of parameters, and their values what allowed says.
local function check_values(path, field, values, allowed)
  for _, name in ipairs(lib.sorted_keys(values)) do
    if type(name) ~= 'string' or not name:match '^%a[%w_]*$' then
      errors.usage("%s: %s has the name '%s'; names are those of parameters and options", path,
        field, tostring(name))
    end
    if not allowed(values[name]) then
      errors.usage('%s: %s.%s is no number, text, boolean or list of such', path, field, name)
    end
  end
end

--- Axes of a table: values are lists, or texts as on the command line, or single values.
local function axes_of(path, values)
  local axes = {}
  check_values(path, 'grid', values, function(value)
    return is_value(value) or is_list(value, is_value)
  end)
  for _, name in ipairs(lib.sorted_keys(values)) do
    local value = values[name]
    if type(value) == 'string' then
      axes[name] = grid.words({ name .. '=' .. value })[name]
    else
      axes[name] = type(value) == 'table' and value or { value }
    end
  end
  return axes
end

--- A file of the definition: in the current folder, else among Neap's own.
local function find(path)
  if sources.read(path) then return path end
  local own = launcher.home .. '/' .. path
  return sources.read(own) and own or path
end

local function from_file(path, commands)
  local chunk, why = loadfile(path)
  if not chunk then
    if sources.read(path) then errors.plain('%s', why) end
    local kinds = lib.sorted_keys(commands)
    errors.usage('%s: no such file%s; a sweep is of a recipe, a sweep file, or of: %s', path,
      lib.hint(path, kinds), table.concat(kinds, ', '))
  end
  local ok, loaded = pcall(chunk)
  if not ok then errors.plain('%s', errors.in_file(path, loaded)) end
  if recipe.is(loaded) then return { kind = 'run', script = path, name = loaded.name } end
  return sweep.define(path, loaded, commands)
end

--- The sweep that a file's table defines. path names the file. Raises USAGE.
function sweep.define(path, loaded, commands)
  check_definition(path, loaded)
  check_values(path, 'fixed', loaded.fixed or {}, is_value)
  return {
    kind = check_kind(loaded.kind or 'run', commands),
    script = loaded.script and find(loaded.script),
    name = loaded.name, doc = loaded.doc, fixed = loaded.fixed,
    axes = axes_of(path, loaded.grid or {}),
  }
end

--- A sweep of what: a recipe, a sweep file or a kind; words: axes NAME=VALUES, over the file's own;
-- commands: those that a sweep can be of, by kind, as main/cli.lua has them and with key(args).
-- Returns { name=, kind=, command=, script=, fixed=, axes= }. Raises USAGE.
function sweep.load(what, words, commands)
  local found = commands[what] and { kind = what, name = what } or from_file(what, commands)
  found.command = commands[found.kind]
  found.name = found.name or what:match '([^/]*)%.lua$' or what
  found.axes, found.fixed = found.axes or {}, found.fixed or {}
  for name, values in pairs(grid.words(words)) do
    found.axes[name], found.fixed[name] = values, nil
  end
  if found.kind == 'run' and not found.script then
    errors.usage('%s: a sweep of runs needs a script (a recipe)', what)
  end
  return found
end

--- ---- plans -------------------------------------------------------------------------------------

local function word(name, value)
  local option = '--' .. name:gsub('_', '-')
  if tostring(value) == 'true' then return option end
  return ('%s=%s'):format(option, params.show(value))
end

--- 'policy' stands for 'policies' where that is what the recipe has.
local function translate(definition, name)
  if name ~= 'policy' or definition.kind ~= 'run' then return name end
  local specs = recipe.load(definition.script).params
  return (specs.policies and not specs.policy) and 'policies' or name
end

local function arguments_of(definition, cell)
  local words = { definition.script }
  for _, name in ipairs(lib.sorted_keys(definition.fixed)) do
    words[#words + 1] = word(translate(definition, name), definition.fixed[name])
  end
  for _, pair in ipairs(cell) do
    words[#words + 1] = word(translate(definition, pair[1]), pair[2])
  end
  return words
end

--- Parses the arguments of a command as main/cli.lua would. Raises USAGE.
local function parse(kind, command, words)
  local parser = argparse('neap ' .. kind)
  local rewritten = command.options(parser, { kind, unpack(words) })
  local message
  local ok, args = pcall(function()
    return parser:_parse(rewritten and { unpack(rewritten, 2) } or words, function(_, text)
      message = arguments.wrong(parser, text)
      error(message, 0)
    end)
  end)
  if message then errors.usage('%s', message) end
  if not ok then error(args, 0) end
  return args
end

--- What tells a run from the others: the axes with more than one value.
local function label(cell, axes)
  local parts = {}
  for _, pair in ipairs(cell) do
    if #axes[pair[1]] > 1 then
      parts[#parts + 1] = pair[1] .. '=' .. params.show(pair[2])
    end
  end
  return #parts > 0 and table.concat(parts, ' ') or 'the only run'
end

--- Policies that an axis names must be there before anything runs.
local function check_policies(axes)
  for _, name in ipairs { 'policy', 'policies' } do
    for _, value in ipairs(axes[name] or {}) do
      for _, text in ipairs(type(value) == 'table' and value or { value }) do
        policies.resolve(tostring(text))
      end
    end
  end
end

--- All runs of a sweep: { number=, kind=, words= (arguments), label=, key=, steps= }. launch: words
-- that start a run under a launcher, or nil. Every run's arguments are checked. Raises USAGE.
function sweep.plan(definition, launch)
  local plan, numbers = {}, {}
  check_policies(definition.axes)
  for _, cell in ipairs(grid.cells(definition.axes)) do
    local words = arguments_of(definition, cell)
    local args = parse(definition.kind, definition.command, words)
    local key = definition.command.key(args)
    if launch then key = provenance.sha256(key .. ' ' .. launch):sub(1, 32) end
    if not numbers[key] then
      numbers[key] = #plan + 1
      plan[#plan + 1] = {
        number = #plan + 1, kind = definition.kind, words = words, key = key,
        label = label(cell, definition.axes),
        steps = tonumber(args.params and args.params.steps),
      }
    end
  end
  return plan
end

--- ---- what is done ------------------------------------------------------------------------------

--- 'done', 'running', 'failed' or 'todo', and the row of the run that says so.
function sweep.state(runs, key)
  return sweeps.state(runs:runs('key = ?', key))
end

--- Fills in state and run of every run of a plan.
function sweep.look_up(runs, plan)
  for _, entry in ipairs(plan) do
    local state, row = sweep.state(runs, entry.key)
    entry.state, entry.run = state, row and row.id
    entry.error = state == 'failed' and row.error or nil
  end
end

--- Notes in the store which runs the sweep consists of now.
function sweep.register(runs, name, plan)
  runs:write 'BEGIN IMMEDIATE'
  runs:write('DELETE FROM sweeps WHERE name = ?', name)
  for _, entry in ipairs(plan) do
    runs:insert('sweeps', { name = name, number = entry.number, key = entry.key,
      arguments = table.concat(entry.words, ' ') })
  end
  runs:write 'COMMIT'
end

--- Seconds that a run of the plan will take, by the runs of the same script that the store holds,
-- scaled by their steps; nil if there are none.
function sweep.estimate(runs, definition, entry)
  local row = runs:rows([[SELECT avg(took / steps) AS rate, avg(took) AS took FROM (
    SELECT r.ended - r.started AS took, (SELECT sum(steps) FROM results WHERE run = r.id) AS steps
    FROM runs r WHERE r.state = 'done' AND r.kind = ?1 AND (?2 IS NULL OR r.script = ?2)
    ORDER BY r.id DESC LIMIT 20)]], definition.kind, definition.script)[1]
  return entry.steps and row.rate and row.rate * entry.steps or row.took
end

return sweep

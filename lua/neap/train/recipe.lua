-- SPDX-License-Identifier: Apache-2.0

--- Recipes: Lua modules that say what the ranks do.
--
--   local recipe = require 'neap.train.recipe'
--   return recipe.define {
--     name = 'hello', doc = 'Greets.', ranks = 8, node_size = 4,
--     params = { times = { default = 3, doc = 'how often' } },
--     run = function(self, job)
--       for _ = 1, job.params.times do job:print('hello from rank ' .. job.rank) end
--     end,
--   }
--
-- Every rank loads the recipe and calls run; job is described in main/rank.lua.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local params = require 'neap.base.params'
local sources = require 'neap.base.sources'

local recipe = {}

local Recipe = {}
Recipe.__index = Recipe

local SPEC = {
  name = { type = 'string', needed = true }, doc = { type = 'string' },
  ranks = { type = 'number' }, node_size = { type = 'number' }, params = { type = 'table' },
  run = { type = 'function', needed = true },
}

--- Makes a recipe of its definition. Default: 1 rank; node_size nil means that all ranks of a host
-- are one node. Raises an error for an unknown field or a wrong type.
-- : table -> Recipe
function recipe.define(definition)
  local wrong = options.problem(definition, SPEC, 'recipe', 'field')
  if wrong then error(wrong, 2) end
  definition.ranks = definition.ranks or 1
  definition.params = definition.params or {}
  params.check(definition.params, 'recipe ' .. definition.name, 2)
  return setmetatable(definition, Recipe)
end

--- Whether a value is what define returns.
-- : any -> boolean
function recipe.is(value)
  return getmetatable(value) == Recipe
end

-- A rank that left by itself would end the others' process, or leave them waiting.
local refuse_exit = errors.no_exit('a recipe', 'run returns, or calls error')

--- From now on os.exit is an error in this state, which belongs to a recipe.
function recipe.forbid_exit()
  rawset(os, 'exit', refuse_exit)
end

--- The recipe of a file; modules beside the file can be required. While it is read os.exit is an
-- error.
-- : string -> Recipe
function recipe.load(path)
  local chunk, why = loadfile(path)
  if not chunk then
    local file = io.open(path)
    if not file then
      local folder, name = path:match '^(.*)/([^/]*)$'
      errors.usage('%s: no such recipe%s; usage: neap run RECIPE.lua --name=value …', path,
        lib.hint(name or path, launcher.list(folder or '.')))
    end
    file:close()
    errors.plain('%s', why)
  end
  sources.reach(path)
  local exit = os.exit
  recipe.forbid_exit()
  local loaded = chunk()
  rawset(os, 'exit', exit)
  if not recipe.is(loaded) then
    errors.usage('%s: is no recipe: it must return recipe.define{…}', path)
  end
  return loaded
end

return recipe

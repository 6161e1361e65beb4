-- SPDX-License-Identifier: Apache-2.0

--- Policies: Lua files that decide layouts and splits.
--
--   local policy = require 'neap.policy'
--   local Hot = policy.define {
--     name   = 'hot',
--     params = { window = { default = 5, doc = 'steps of history to plan on' } },
--   }
--   function Hot:plan(ctx) … return layout end
--   return Hot
--
-- Hooks, each optional:
--   plan(self, ctx) -> layout               off the critical path; default: the static layout
--   split(self, ctx, layout, load) -> split on the exact counts; or the name of a built-in rule
--                                           ('lite', 'even', …); default: 'minimax'
--   when(self, ctx) -> boolean              whether to plan at this step; default: always
--   precision(self, ctx) -> 'fp8', 'dtype', { unshard =, dispatch = } of these, or nil
--                                           how the layer's experts and tokens travel from a step
--                                           of a training on; nil: as before
--   save(self, ctx) -> state                what a checkpoint keeps of self: a number, a text, a
--                                           boolean or a table of such; with it goes
--   restore(self, ctx, state)               which takes it back, before any other hook
-- Each layer has a policy object of its own, so that fields of self are the state of one layer;
-- they start anew when a worker has been restarted, and after a resume without save and restore.
-- Parameters are fields of self. Other functions of a policy are locals of its file.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local params = require 'neap.base.params'
local sources = require 'neap.base.sources'
local splits = require 'neap.engine.split'

local policy = {}

-- Steps of history that are kept, unless a policy asks for more or fewer.
local KEEP = 32
local DEFAULT_SPLIT = 'minimax'

--- What policies can plan on.
policy.PLANS_ON = { history = true, current = true, both = true, known = true }

local HOOKS = { 'plan', 'split', 'when', 'precision', 'save', 'restore' }
local FIELDS = {
  name = 'string', doc = 'string', params = 'table', history = 'number', plans_on = 'string',
  plan = 'function', split = 'function', when = 'function', save = 'function',
  restore = 'function', precision = 'function',
}

policy.HOOKS = HOOKS

local classes = setmetatable({}, { __mode = 'k' })

local function contains(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

local function check_rule(rule)
  local known = splits.rules()
  if not contains(known, rule) then
    errors.usage("unknown split '%s'%s; known are %s", rule, lib.hint(rule, known),
      table.concat(known, ', '))
  end
end

local function misuse(level, message, ...)
  local info = debug.getinfo(level + 1, 'Sl')
  errors.usage('policy %s:%d: ' .. message, info.source:gsub('^@', ''), info.currentline, ...)
end

local function check_field(field, value)
  local wanted = FIELDS[field]
  if not wanted then
    misuse(3, "unknown hook or field '%s'%s; known are %s", field,
      lib.hint(field, lib.sorted_keys(FIELDS)), table.concat(lib.sorted_keys(FIELDS), ', '))
  end
  if type(value) ~= wanted and not (field == 'split' and type(value) == 'string') then
    misuse(3, "'%s' is a %s; it must be a %s", field, type(value), wanted)
  end
end

--- Functions that are added to a policy after its definition must be hooks: a misspelt one would
-- never be called.
local function add_field(class, field, value)
  if type(value) == 'function' and not contains(HOOKS, field) then
    misuse(2, "unknown hook '%s'%s; hooks are %s (make helpers local functions)", field,
      lib.hint(field, HOOKS), table.concat(HOOKS, ', '))
  end
  rawset(class, field, value)
end

--- Makes a policy. Fields: name (required), doc, params (see base/params.lua), history (steps kept,
-- default 32), plans_on ('history'; 'current': on the counts of the very step, on the critical
-- path; 'both': on history, and again on the counts), and the hooks. An unknown field is an error.
-- Whoever runs a policy may ask for another plans_on, by the parameter on (policy.ON).
-- : table -> Policy
function policy.define(definition)
  for _, field in ipairs(lib.sorted_keys(definition)) do
    check_field(field, definition[field])
  end
  if not definition.name then misuse(2, 'a policy needs a name') end
  local class = { params = {}, history = KEEP, plans_on = 'history', split = DEFAULT_SPLIT }
  for field, value in pairs(definition) do class[field] = value end
  if class.history < 1 or class.history % 1 ~= 0 then
    misuse(2, 'history is %s; it must be a whole number of at least 1 step', class.history)
  end
  if not policy.PLANS_ON[class.plans_on] or class.plans_on == 'known' then
    misuse(2, "plans_on is '%s'; allowed are 'history', 'current' and 'both'", class.plans_on)
  end
  params.check(class.params, 'policy ' .. class.name, 2)
  for name in pairs(class.params) do
    if FIELDS[name] or name == 'on' then
      misuse(2, "a parameter cannot be called '%s'", name)
    end
  end
  class.__index = class
  classes[class] = true
  return setmetatable(class, { __newindex = add_field })
end

--- ---- finding and loading -----------------------------------------------------------------------

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function shipped_folder()
  return launcher.home .. '/experiments/policies/'
end

--- Names of the policies in experiments/policies, sorted.
-- : -> list of string
function policy.names()
  local names = {}
  for _, entry in ipairs(launcher.list(shipped_folder())) do
    names[#names + 1] = entry:match '^(.*)%.lua$'
  end
  table.sort(names)
  return names
end

local function find(name)
  if name:find '/' or name:find '%.lua$' then
    if not exists(name) then errors.usage('%s: no such policy file', name) end
    return name
  end
  local path = shipped_folder() .. name .. '.lua'
  if not exists(path) then
    local names = policy.names()
    errors.usage("unknown policy '%s'%s; known are %s, or the path of a Lua file", name,
      lib.hint(name, names), table.concat(names, ', '))
  end
  return path
end

--- What a policy may be asked to plan on, by the parameter on that every policy has:
--   history  the loads up to the step before, as training knows them ahead
--   current  the counts of the very step: what the plan changes travels on the critical path
--   known    those counts as if they had been known before: a replay or simulation can, no training
policy.ON = { 'history', 'current', 'known' }

--- The price of work that crosses nodes, which the split minimax knows of every policy: 0 to inf,
-- or 'cluster', what the cluster that is described says.
local function read_price(text, given)
  local price = given and tonumber(given)
  if given == 'cluster' then return given end
  if given and not (price and price >= 0) then
    errors.usage("policy '%s': far_price is '%s'; allowed are 0 to inf and cluster", text, given)
  end
  return price
end

--- Name or file of a policy's text, and what follows it.
local function split_text(text)
  local name, rest = text:match '^(.-%.lua)(.*)$'
  if not name or not (rest == '' or rest:match '^[+:]') then
    name, rest = text:match '^([^+:]*)(.*)$'
  end
  return name, rest
end

--- How tables call the policy of a text: by the name that it has given itself, with the text's
-- split and parameters.
-- : string, string -> string
function policy.label(text, name)
  local _, rest = split_text(text)
  return name .. rest
end

--- "laer", "mine.lua", "laer+minimax", "laer+minimax:window=3,on=current" -> a selection: { text=,
-- file=, split=, on= (nil: the policy's own), far_price= (of the split minimax: a number,
-- 'cluster' or nil), params = { name = text } }. Raises USAGE. Runs no policy: that is done where
-- it cannot harm.
-- : string -> table
function policy.resolve(text)
  local name, rest = split_text(text)
  local split, given = rest:match '^%+?([^:]*):?(.*)$'
  local values = {}
  for item in given:gmatch '[^,]+' do
    local key, value = item:match '^([%w_]+)=(.*)$'
    if not key then
      errors.usage("policy '%s': '%s' is no parameter; the form is NAME+SPLIT:key=value,key=value",
        text, item)
    end
    if values[key] then errors.usage("policy '%s': %s is given twice", text, key) end
    values[key] = value
  end
  if split ~= '' then check_rule(split) end
  local on = values.on
  values.on = nil
  if on and not contains(policy.ON, on) then
    errors.usage("policy '%s': on is '%s'%s; allowed are %s", text, on, lib.hint(on, policy.ON),
      table.concat(policy.ON, ', '))
  end
  local far_price = read_price(text, values.far_price)
  values.far_price = nil
  return {
    text = text, file = find(name), split = split ~= '' and split or nil, on = on,
    far_price = far_price, params = values,
  }
end

--- Runs a policy file and returns the policy; it can require modules beside the file. Raises POLICY
-- when it fails, USAGE when it is none.
-- : string -> Policy
function policy.load(file)
  local chunk, why = loadfile(file)
  if not chunk then lib.raise('POLICY', 'policy ' .. why) end
  sources.reach(file)
  local ok, class = pcall(chunk)
  if not ok then
    if errors.code(class) then error(class, 0) end
    lib.raise('POLICY', 'policy ' .. errors.in_file(file, class))
  end
  if not (type(class) == 'table' and classes[class]) then
    errors.usage('policy %s: the file must return what policy.define{…} gave', file)
  end
  if type(class.split) == 'string' then check_rule(class.split) end
  if (class.save == nil) ~= (class.restore == nil) then
    errors.usage('policy %s: save and restore go together; one of them is missing', file)
  end
  return class
end

--- Parameters of a policy object by name; nil for anything else.
-- : any -> table?
function policy.values(object)
  local class, values = getmetatable(object), {}
  if not classes[class or false] then return nil end
  for name in pairs(class.params) do values[name] = object[name] end
  return values
end

--- A policy object: parameters (texts, as on the command line) over defaults.
-- : Policy, table -> Policy object
function policy.create(class, texts)
  local ok, values = pcall(params.values, class.params, texts)
  if not ok then
    if values.code == 'USAGE' then errors.usage('policy %s: %s', class.name, values.message) end
    error(values, 0)
  end
  local object = {}
  for name, value in pairs(values) do object[name] = value end
  return setmetatable(object, class)
end

return policy

-- SPDX-License-Identifier: Apache-2.0

--- Planners: built-in algorithms from loads to layouts.
--
--   local planner = plan.open('laer', topology, { no_even = true })
--   local layout = planner:plan(load, previous, seed)
--   local layers = plan.batch({ planner, another }, { { loads = { load } }, … })
--   plan.names()              { 'static', 'random', … }
--   plan.parameters 'laer'    { no_even = { default = false, doc = '…' }, … }
-- In a policy, plan.NAME(ctx, options) gives its layout (ctx:plan does the work).

local lib = require 'neap.base.lib'
local matrix = require 'neap.engine.matrix'
local layouts = require 'neap.engine.layout'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local plan = {
  WINDOW = 5, -- steps of history that a plan takes, where nobody says
}

local Planner = {}
Planner.__index = Planner

--- Names of the built-in planners.
-- : -> list of string
function plan.names()
  return lib.names(C.neap_planner_count, C.neap_planner_name)
end

local UNKNOWN = "plan: no planner is called '%s'%s; known are %s"

local function open(name, topology, level)
  lib.check_name(name, plan.names(), UNKNOWN, level + 1)
  local out = ffi.new 'neap_planner *[1]'
  lib.check(C.neap_planner_open(topology.ptr, name, out), level + 1)
  return lib.handle(Planner, out[0], C.neap_planner_close)
end

--- The planner's parameters: list of { name=, doc=, default=, min=, max=, integer= }; those that
-- are yes or no have true or false for default, and no range.
-- : -> list of table
function Planner:parameters()
  local list = {}
  for i = 0, math.huge do
    local p = C.neap_planner_parameter(self.ptr, i)
    if p == nil then return list end
    local parameter = { name = ffi.string(p.name), doc = ffi.string(p.doc), default = p.value }
    if p.whole == 1 and p.low == 0 and p.high == 1 then
      parameter.default = p.value == 1
    else
      parameter.min, parameter.max = p.low, p.high
      parameter.integer = p.whole == 1 or nil
    end
    list[i + 1] = parameter
  end
end

--- Parameters of a planner by name, as policy.define takes them; names: those that are wanted, with
-- spaces between them (default: all). Besides them window, which every plan on history has.
-- : string, string? -> table
function plan.parameters(name, names)
  local found = { window = { default = plan.WINDOW, min = 1, integer = true,
    doc = 'steps of history to plan on' } }
  local planner = open(name, topologies.open { ranks = 1, slots = 1, experts = 1 }, 2)
  for _, p in ipairs(planner:parameters()) do
    if not names or (' ' .. names .. ' '):find(' ' .. p.name .. ' ', 1, true) then
      found[p.name] = { default = p.default, doc = p.doc, min = p.min, max = p.max,
        integer = p.integer }
    end
  end
  return found
end

--- Changes a parameter; true and false stand for 1 and 0. Raises ARGUMENT.
-- : string, number or boolean
function Planner:set(name, value)
  if type(value) == 'boolean' then value = value and 1 or 0 end
  if type(value) ~= 'number' then
    lib.raise('ARGUMENT', ('plan %s: %s is a %s; it must be a number'):format(self.name, name,
      type(value)), 2)
  end
  local names = {}
  for i, parameter in ipairs(self:parameters()) do
    names[i] = parameter.name
    if parameter.name == name then
      return lib.check(C.neap_planner_set(self.ptr, name, value), 2)
    end
  end
  lib.raise('ARGUMENT', ("plan %s: unknown parameter '%s'%s; there are: %s"):format(self.name, name,
    lib.hint(name, names), table.concat(names, ', ')), 2)
end

--- params: values by name, over the defaults. Raises ARGUMENT.
-- : string, Topology, table? -> Planner
function plan.open(name, topology, params)
  local self = open(name, topology, 2)
  self.name, self.topology = name, topology
  for _, key in ipairs(lib.sorted_keys(params or {})) do self:set(key, params[key]) end
  return self
end

--- load: expected tokens [ranks][experts] in any scale, as engine/matrix.lua reads it. previous:
-- layout in force, or nil. seed: a number (default 0), of planners that draw. out: a layout to
-- write to, else a new one. Raises ARGUMENT.
-- : matrix, Layout?, integer?, Layout? -> Layout
function Planner:plan(load, previous, seed, out)
  local t = self.topology
  out = out or layouts.open(t)
  lib.check(C.neap_planner_plan(self.ptr,
    matrix.matrix(load, t.ranks, t.experts, 'double', 'plan ' .. self.name),
    previous and previous.ptr, seed or 0, out.ptr), 2)
  return out
end

--- The same from the loads of the last steps: a list, oldest first. Planner neap makes a forecast
-- of them; others plan on the newest.
-- : list of matrix, Layout?, integer?, Layout? -> Layout
function Planner:plan_history(loads, previous, seed, out)
  local t = self.topology
  out = out or layouts.open(t)
  local pointers, kept = ffi.new('const double *[?]', #loads), {}
  for i, load in ipairs(loads) do
    kept[i] = matrix.matrix(load, t.ranks, t.experts, 'double', 'plan ' .. self.name)
    pointers[i - 1] = kept[i]
  end
  lib.check(C.neap_planner_plan_history(self.ptr, pointers, #loads, previous and previous.ptr,
    seed or 0, out.ptr), 2)
  return out, kept -- kept: alive until here
end

--- Plans many layers at once, on a thread per planner. planners: list, alike (same topology, name
-- and parameters). tasks: list of { loads = as for plan_history, previous =, seed =, out = }.
-- Returns the layouts, as plan_history would give each. Raises ARGUMENT.
-- : list of Planner, list of table -> list of Layout
function plan.batch(planners, tasks)
  local handles = ffi.new('neap_planner *[?]', math.max(#planners, 1))
  local list = ffi.new('neap_plan_task[?]', math.max(#tasks, 1))
  local kept, layers = {}, {} -- kept: alive until the end
  for i, planner in ipairs(planners) do handles[i - 1] = planner.ptr end
  for i, task in ipairs(tasks) do
    local t = planners[1].topology
    local pointers = ffi.new('const double *[?]', #task.loads)
    for k, load in ipairs(task.loads) do
      local read = matrix.matrix(load, t.ranks, t.experts, 'double', 'plan ' .. planners[1].name)
      pointers[k - 1], kept[#kept + 1] = read, read
    end
    layers[i], kept[#kept + 1] = task.out or layouts.open(t), pointers
    local given = list[i - 1]
    given.loads, given.steps, given.out = pointers, #task.loads, layers[i].ptr
    given.previous, given.seed = task.previous and task.previous.ptr, task.seed or 0
  end
  lib.check(C.neap_planner_plan_batch(handles, #planners, list, #tasks), 2)
  return layers, kept
end

--- Frees the planner.
function Planner:close()
  lib.close(self)
end

return setmetatable(plan, {
  __index = function(_, name)
    lib.check_name(name, plan.names(), UNKNOWN, 2)
    return function(ctx, options) return ctx:plan(name, options) end
  end,
})

-- SPDX-License-Identifier: Apache-2.0

--- Runs the hooks of one policy for all layers. The same code runs in the worker process and, with
-- --in-process, in the rank. It promises that a failing hook gives an answer, never an error.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local split_builder = require 'neap.policy.split_builder'
local context = require 'neap.policy.context'
local layout_builder = require 'neap.policy.layout_builder'
local errors = require 'neap.base.errors'
local history = require 'neap.policy.history'
local layouts = require 'neap.engine.layout'
local plans = require 'neap.engine.plan'
local policy = require 'neap.policy'
local precision = require 'neap.policy.precision'
local splits = require 'neap.engine.split'

local ffi = lib.ffi

local runtime = {}

-- Outcomes of a hook; LATE: it was not called, since a newer load of the layer was there.
runtime.PLANNED, runtime.SKIPPED, runtime.FAULT, runtime.LATE = 1, 2, 3, 4

--- ---- tools that contexts share ----------------------------------------------------------------

local Tools = {}
Tools.__index = Tools

local function open_tools(o)
  local topology = o.topology
  return setmetatable({
    topology = topology, seed = o.seed, fetch_work = o.fetch_work, far_price = o.far_price,
    planners = {}, splits = {},
    slots = ffi.new('int32_t[?]', topology.slots), scratch = layouts.open(topology),
    before = layouts.open(topology),
  }, Tools)
end

--- The engine's split of a rule, opened at first use.
function Tools:split(rule)
  if not self.splits[rule] then
    self.splits[rule] = splits.open(self.topology, rule)
    if rule == 'minimax' then self.splits[rule]:set_price(self.far_price or 0) end
  end
  return self.splits[rule]
end

--- A planner with the given parameters over its defaults; opened at first use.
function Tools:planner(name, given)
  local planner = self.planners[name] or plans.open(name, self.topology)
  self.planners[name] = planner
  planner.defaults = planner.defaults or planner:parameters()
  for _, parameter in ipairs(planner.defaults) do planner:set(parameter.name, parameter.default) end
  for _, key in ipairs(lib.sorted_keys(given)) do planner:set(key, given[key]) end
  return planner
end

--- A hook's answer as a layout of the engine, valid until the next call. Raises LAYOUT.
function Tools:layout(answer)
  layout_builder.read(self.topology, answer, self.slots)
  return self.scratch:set(self.slots)
end

--- ---- runtime ----------------------------------------------------------------------------------

local Runtime = {}
Runtime.__index = Runtime

--- Where each hook starts: line by name, 0 for a hook that is not there.
local function lines(class)
  local out = {}
  for _, hook in ipairs(policy.HOOKS) do
    local there = type(class[hook]) == 'function'
    out[hook] = there and debug.getinfo(class[hook], 'S').linedefined or 0
  end
  return out
end

--- "file:line" of the policy for an error: the innermost line of its file on the stack, else the
-- line where the hook starts.
local function where(self, hook)
  local source = '@' .. self.file
  for level = 2, 100 do
    local info = debug.getinfo(level, 'Sl')
    if not info then break end
    if info.source == source then return ('%s:%d'):format(self.file, info.currentline) end
  end
  return ('%s:%d'):format(self.file, self.lines[hook])
end

local MOST = 400 -- bytes of an error in a message

--- An error's message without the place that Lua puts before it, as one line.
local function bare(err)
  local text = errors.describe(err)
  if not errors.code(err) then text = text:gsub('^[^\n]-:%d+: ', '') end
  text = text:gsub('%c+', ' ')
  return #text > MOST and text:sub(1, MOST) .. ' …' or text
end

--- options: file, params (texts), split (a rule instead of the policy's split, or nil), on (instead
-- of its plans_on, or nil; history is then the counts of the step alone), topology, layers, seed,
-- watch (called with hook, step and layer before every hook, or nil), fetch_work and far_price (of
-- the context, or nil), travel (dtype of the training, and whether experts are resident; nil: it is
-- none). Raises POLICY or USAGE.
function runtime.open(options)
  local class = policy.load(options.file)
  local tools = open_tools(options)
  local self = setmetatable({
    name = class.name, file = options.file, class = class, watch = options.watch, tools = tools,
    topology = options.topology, layers = {}, travel = options.travel,
    exact = history.load(options.topology.ranks, options.topology.experts),
  }, Runtime)
  self.plans_on = options.on or class.plans_on
  local alone = options.on and options.on ~= 'history'
  self.keep = alone and 1 or class.history
  for layer = 0, options.layers - 1 do
    self.layers[layer] = {
      object = policy.create(class, options.params),
      ctx = context.open(tools, layer, self.keep),
    }
  end
  local split = options.split or class.split
  self.rule = type(split) == 'string' and split or nil
  self.plans = class.plan ~= nil
  function self.on_error(err)
    self.where = where(self, self.hook)
    return err
  end
  self.lines = lines(class)
  return self
end

--- Calls a hook; true and its answer, or false and a message with place, step and layer.
local function call(self, hook, step, layer, a, b)
  local entry = self.layers[layer]
  if self.watch then self.watch(hook, step, layer) end
  self.hook, self.where = hook, nil
  local ok, answer = xpcall(self.class[hook], self.on_error, entry.object, entry.ctx, a, b)
  if ok then return true, answer end
  return false, ('policy %s: %s at step %d, layer %d: %s'):format(self.where or self.file, hook,
    step, layer, bare(answer))
end

--- Reads a hook's answer; the same results as call.
local function read(self, hook, step, layer, reader, ...)
  local ok, result = pcall(reader, ...)
  if ok then return true, result end
  return false, ('policy %s:%d: %s at step %d, layer %d: %s'):format(self.file, self.lines[hook],
    hook, step, layer, bare(result))
end

--- Adds the load of a step, int64_t[ranks][experts], to a layer's history.
function Runtime:record(layer, load)
  self.layers[layer].ctx.history:push(load)
end

--- Plans a layer for a step; expert_of[slots]: the active layout; known: for a policy that plans
-- on both, this is the plan on history. Returns the outcome and, for PLANNED, expert_of[slots]
-- (valid until the next plan), for FAULT, the message.
function Runtime:plan(step, layer, expert_of, known)
  local ctx = self.layers[layer].ctx
  if not self.plans then return runtime.SKIPPED end
  ctx:enter(step, expert_of)
  ctx.current = self.plans_on ~= 'history' and not known
  local ok, answer
  if self.class.when then
    ok, answer = call(self, 'when', step, layer)
    if not ok then return runtime.FAULT, answer end
    if not answer then return runtime.SKIPPED end
  end
  ok, answer = call(self, 'plan', step, layer)
  if not ok then return runtime.FAULT, answer end
  ok, answer = read(self, 'plan', step, layer, self.tools.layout, self.tools, answer)
  if not ok then return runtime.FAULT, answer end
  return runtime.PLANNED, answer:array()
end

--- Splits the exact counts load, int64_t[ranks][experts], of a layer: writes out[ranks][slots].
-- Returns PLANNED, or FAULT and the message.
function Runtime:split(step, layer, load, expert_of, out)
  local ctx = self.layers[layer].ctx
  ctx:enter(step, expert_of)
  self.tokens = self.tokens or ffi.new('int64_t[?]', self.topology.ranks * self.topology.slots)
  ctx.exact = { layout = ctx.previous, load = self.exact:set(load), memory = self.tokens }
  local ok, answer = call(self, 'split', step, layer, ctx.previous, self.exact)
  if ok and type(answer) == 'string' then
    ok, answer = read(self, 'split', step, layer, ctx.split, ctx, answer)
  end
  if ok then
    ok, answer = read(self, 'split', step, layer, split_builder.read, self.topology, answer, out)
  end
  ctx.exact = nil
  if not ok then return runtime.FAULT, answer end
  return runtime.PLANNED
end

--- How a layer's experts and tokens travel from a step on. before: how they do; numbers: what
-- precision.pack gave. PLANNED and { unshard =, dispatch = }, or FAULT and the message.
function Runtime:precision(step, layer, before, numbers, expert_of)
  local ctx = self.layers[layer].ctx
  ctx:enter(step, expert_of)
  precision.tell(ctx, numbers, before)
  local ok, answer = call(self, 'precision', step, layer)
  if ok then
    ok, answer = read(self, 'precision', step, layer, precision.read, answer, before, self.travel)
  end
  return ok and runtime.PLANNED or runtime.FAULT, answer
end

--- ---- state -------------------------------------------------------------------------------------

--- Whether a layer's object has fields that are no parameters, which a resume would lose.
function Runtime:has_fields(layer)
  for field in pairs(self.layers[layer].object) do
    if not self.class.params[field] then return true end
  end
  return false
end

--- What a layer's policy wants a checkpoint to keep: PLANNED and a text, SKIPPED without the hook,
-- or FAULT and the message. step: the one that would begin.
function Runtime:save(step, layer)
  if not self.class.save then return runtime.SKIPPED end
  self.layers[layer].ctx.step = step
  local ok, answer = call(self, 'save', step, layer)
  if ok then ok, answer = read(self, 'save', step, layer, json.pack, answer) end
  return ok and runtime.PLANNED or runtime.FAULT, answer
end

local function unpack_state(text)
  local value, why = json.unpack(text)
  if why then error('the kept state is damaged: ' .. why, 0) end
  return value
end

--- Hands a layer's policy what save gave: PLANNED, SKIPPED without the hook, or FAULT and the
-- message.
function Runtime:restore(step, layer, text)
  if not self.class.restore then return runtime.SKIPPED end
  self.layers[layer].ctx.step = step
  local ok, state = read(self, 'restore', step, layer, unpack_state, text)
  if ok then ok, state = call(self, 'restore', step, layer, state) end
  return ok and runtime.PLANNED or runtime.FAULT, not ok and state or nil
end

return runtime

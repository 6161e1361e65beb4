--- How training and replay talk to a policy. One rank (0) plans, through a worker process or, with
-- in_process, itself; the others get its layouts by broadcast. A fault of the policy (error, crash,
-- deadline, invalid answer) is counted, and the last valid layout stays; with strict it is raised,
-- on all ranks, with code POLICY.
--
--   local s = session.open { comm =, topology =, layers =, policy = 'laer+minimax', seed = 1 }
--   for step = 0, steps - 1 do
--     s:advance(step)                        -- collective: plans that are ready come into force
--     for layer = 0, layers - 1 do
--       …                                    -- unshard s:layout(layer), count tokens
--       s:split(layer, load, step)           -- how many tokens go where
--       s:observe(step, layer, load)         -- off the critical path
--     end
--   end
--   s:close()

local lib = require 'neap.lib'
local failure = require 'neap.failure'
local host = require 'neap.host'
local inline = require 'neap.inline'
local layouts = require 'neap.layout'
local metrics = require 'neap.metrics'
local plans = require 'neap.plan'
local policies = require 'neap.policy'
local splits = require 'neap.split'
local worker = require 'neap.worker'

local ffi, C = lib.ffi, lib.C

local session = {}

local Session = {}
Session.__index = Session

local FALLBACK = 'minimax'  -- what splits when a policy's split hook has failed
local SPLIT_TRIES = 3       -- faults in a row after which a split hook is not called any more
local MESSAGES = 20         -- that the report keeps
local TEXT_BYTES = 512      -- of a message that is broadcast

local DEFAULTS = { seed = 0, deadline = 1, strict = false, in_process = false, wait = false }
local NEEDED = { 'topology', 'layers', 'policy' }
local OPTIONAL = { 'comm', 'seed', 'deadline', 'strict', 'in_process', 'wait', 'on_fault' }

local function take_options(given)
  local options = setmetatable({}, { __index = DEFAULTS })
  local known = {}
  for _, list in ipairs { NEEDED, OPTIONAL } do
    for _, name in ipairs(list) do known[#known + 1] = name end
  end
  for _, name in ipairs(lib.sorted_keys(given)) do
    options[name] = given[name]
    local found = false
    for _, other in ipairs(known) do found = found or other == name end
    if not found then
      lib.raise('ARGUMENT', ("session: unknown option '%s'%s"):format(name,
        lib.hint(name, known)), 3)
    end
  end
  for _, name in ipairs(NEEDED) do
    if options[name] == nil then
      lib.raise('ARGUMENT', ("session: option '%s' is missing"):format(name), 3)
    end
  end
  return options
end

local function duplicate(comm)
  if not comm or C.neap_comm_size(comm.ptr) == 1 then return nil end
  local out = ffi.new 'neap_comm *[1]'
  lib.check(C.neap_comm_duplicate(comm.ptr, out))
  return out[0]
end

local function open_door(self, options)
  local selection = policies.resolve(options.policy)
  self.file = selection.file
  local open = options.in_process and inline.open or worker.open
  local ok, door = xpcall(open, failure.handler, {
    file = selection.file, params = selection.params, split = selection.split,
    topology = self.topology, layers = self.layers, seed = options.seed,
    deadline = options.deadline,
  })
  if ok then return door end
  if not options.strict and door.code == 'POLICY' then door.code = 'FAILED' end
  error(door, 0)
end

--- Broadcasts a short text from rank 0.
local function share_text(self, text)
  if not self.comm then return text end
  local buffer = ffi.new('char[?]', TEXT_BYTES)
  if text then ffi.copy(buffer, text) end
  lib.check(C.neap_comm_broadcast(self.comm, buffer, TEXT_BYTES, 0))
  return ffi.string(buffer)
end

local function no_load(self)
  return ffi.new('double[?]', self.topology.ranks * self.topology.experts)
end

local function open_layers(self)
  self.in_force, self.split_of = {}, {}
  for layer = 0, self.layers - 1 do
    self.in_force[layer] = layouts.open(self.topology)
    if layer == 0 then
      plans.open('static', self.topology):plan(no_load(self), nil, 0, self.in_force[0])
    else
      self.in_force[layer]:copy(self.in_force[0])
    end
    self.split_of[layer] = splits.open(self.topology, self.rule or FALLBACK)
  end
end

--- Collective over comm. Options:
--   topology, layers, policy  what is planned, and a text that policy.resolve takes
--   comm                      nil: this process alone; its ranks need not be the topology's
--   seed (0), deadline (1)    of the random streams; seconds that a hook may run
--   strict, in_process        faults are raised; the policy runs in rank 0 itself
--   wait                      advance waits for all plans (up to the deadline), as replay wants
--   on_fault(message)         called on rank 0 for every fault that is not raised
-- Raises USAGE for a policy that is not defined well, POLICY (strict) or FAILED for one that fails
-- while it is loaded.
function session.open(given)
  local options = take_options(given)
  local topology = options.topology
  local self = setmetatable({
    topology = topology, layers = options.layers, strict = options.strict,
    always_wait = options.wait, on_fault = options.on_fault, comm = duplicate(options.comm),
    slots = topology.slots, ranks = topology.ranks,
    faults = 0, late = 0, messages = {}, split_faults = 0,
    plan_ms = metrics.series(), split_us = metrics.series(), ready = {},
  }, Session)
  self.root = not self.comm or C.neap_comm_rank(self.comm) == 0
  self.door = self.root and open_door(self, options) or nil
  local meta = share_text(self, self.door and self.door.plans_on .. ' ' .. (self.door.rule or ''))
  self.plans_on, self.rule = meta:match '^(%S+) (%S*)$'
  self.rule = self.rule ~= '' and self.rule or nil
  open_layers(self)
  self.draft = layouts.open(topology)
  self.amounts = not self.rule and ffi.new('int64_t[?]', 1 + self.ranks * self.slots) or nil
  return self
end

--- The layout in force for a layer; its content changes at advance.
function Session:layout(layer)
  return self.in_force[layer]
end

local function fault(self, message)
  self.faults = self.faults + 1
  if #self.messages < MESSAGES then self.messages[#self.messages + 1] = message end
  if self.strict then
    error(setmetatable({ code = 'POLICY', message = message, where = '' }, lib.Error), 0)
  end
  if self.on_fault then self.on_fault(message) end
end

--- What the engine's last check of an answer found.
local function invalid(self, hook, step, layer)
  return ('policy %s:%d: %s at step %d, layer %d: %s'):format(self.file, self.door.lines[hook],
    hook, step, layer, ffi.string(C.neap_error_message()))
end

--- ---- planning ---------------------------------------------------------------------------------

local function observe(self, step, plan_step, layer, load)
  local taken = self.door:observe(step, plan_step, layer, load,
    C.neap_layout_experts(self.in_force[layer].ptr))
  if not taken then self.late = self.late + 1 end
end

--- Hands load, int64_t[ranks][experts], the counts of a step, to the planner. Never waits: what
-- finds no room is dropped and counted as late. Does nothing on ranks other than 0, nor for a
-- policy that plans on current counts (replan has handed them over).
function Session:observe(step, layer, load)
  if self.root and self.plans_on == 'history' then
    observe(self, step, step + 1, layer, load)
  end
end

--- Keeps a plan that is valid for the next broadcast. step: the one that begins.
local function take(self, answer, step)
  if answer.step < step or answer.outcome == host.LATE then self.late = self.late + 1 end
  if answer.outcome == host.FAULT then return fault(self, answer.message) end
  if answer.outcome ~= host.PLANNED then return end
  self.plan_ms:add(answer.seconds * 1e3)
  local status = C.neap_layout_set(self.draft.ptr, answer.expert_of)
  if status ~= 0 then
    return fault(self, invalid(self, 'plan', answer.step, answer.layer))
  end
  self.ready[answer.layer] = answer.expert_of
end

local function collect(self, step, wait)
  while true do
    local answer = self.door:next(wait)
    if not answer then return end
    take(self, answer, step)
  end
end

--- Packs the layouts that change: int32 count, then count x (layer, expert_of[slots]).
local function pack(self)
  local changed = {}
  for layer = 0, self.layers - 1 do
    local expert_of = self.ready[layer]
    if expert_of and C.neap_layout_set(self.draft.ptr, expert_of) == 0
      and C.neap_layout_changed(self.draft.ptr, self.in_force[layer].ptr) > 0 then
      changed[#changed + 1] = layer
    end
  end
  local words = 1 + #changed * (1 + self.slots)
  local buffer = ffi.new('int32_t[?]', math.max(words, self:first_words()))
  buffer[0] = #changed
  for i, layer in ipairs(changed) do
    local at = 1 + (i - 1) * (1 + self.slots)
    buffer[at] = layer
    ffi.copy(buffer + at + 1, self.ready[layer], self.slots * 4)
  end
  self.ready = {}
  return buffer
end

--- Words of the first broadcast of a step, which holds all layouts unless there are very many.
function Session:first_words()
  return math.min(1 + self.layers * (1 + self.slots), 16384)
end

--- One broadcast a step; a second one only for what does not fit into 64 KiB.
local function share_layouts(self, buffer)
  if not self.comm then return buffer end
  local first = self:first_words()
  buffer = buffer or ffi.new('int32_t[?]', first)
  lib.check(C.neap_comm_broadcast(self.comm, buffer, first * 4, 0))
  local words = 1 + buffer[0] * (1 + self.slots)
  if words <= first then return buffer end
  if not self.root then
    local whole = ffi.new('int32_t[?]', words)
    ffi.copy(whole, buffer, first * 4)
    buffer = whole
  end
  lib.check(C.neap_comm_broadcast(self.comm, buffer + first, (words - first) * 4, 0))
  return buffer
end

--- All ranks must now have the same layouts: the least and greatest hash of all are compared.
local function compare_hashes(self, step)
  if not self.comm then return end
  local hash = ffi.new 'int64_t'
  for layer = 0, self.layers - 1 do
    hash = hash * 31 + ffi.cast('int64_t', C.neap_layout_hash(self.in_force[layer].ptr))
  end
  local bounds = ffi.new('int64_t[2]', hash, bit.bnot(hash))
  lib.check(C.neap_comm_all_reduce(self.comm, bounds, 2, C.NEAP_I64, C.NEAP_MIN))
  if bounds[0] ~= bit.bnot(bounds[1]) then
    lib.raise('COMM', ('session: ranks disagree about the layouts of step %d'):format(step))
  end
end

local function apply(self, buffer, step)
  for i = 0, buffer[0] - 1 do
    local at = 1 + i * (1 + self.slots)
    self.in_force[buffer[at]]:set(buffer + at + 1)
  end
  if buffer[0] > 0 then compare_hashes(self, step) end
end

--- Collective: call it where a step begins. Takes over the plans that are ready; a late one comes
-- into force at a later advance. wait: waits for all plans, up to the deadline. Raises POLICY
-- (strict) and COMM.
function Session:advance(step, wait)
  if self.root then collect(self, step, wait or self.always_wait) end
  apply(self, share_layouts(self, self.root and pack(self)), step)
end

--- Collective: plans a layer on the counts of this very step and takes the layout over. For
-- policies that plan on current counts (self.plans_on == 'current'); does nothing for others.
function Session:replan(step, layer, load)
  if self.plans_on ~= 'current' then return end
  if self.root then observe(self, step, step, layer, load) end
  self:advance(step, true)
end

--- ---- splitting --------------------------------------------------------------------------------

local USED, FAULTY, GIVEN_UP = 1, 0, 2

--- Rank 0: asks the policy; amounts[0] tells the outcome, the amounts follow.
local function ask(self, layer, load, step)
  local amounts, layout = self.amounts, self.in_force[layer].ptr
  local outcome, message = self.door:split(step, layer, load, C.neap_layout_experts(layout),
    amounts + 1)
  if outcome == host.PLANNED then
    if C.neap_split_set(self.split_of[layer].ptr, layout, load, amounts + 1) == 0 then
      self.split_faults = 0
      amounts[0] = USED
      return
    end
    message = invalid(self, 'split', step, layer)
  end
  fault(self, message)
  self.split_faults = self.split_faults + 1
  amounts[0] = self.split_faults < SPLIT_TRIES and FAULTY or GIVEN_UP
  if amounts[0] == GIVEN_UP then
    self.messages[#self.messages + 1] = ("policy %s: split failed %d times in a row; '%s' is used "
      .. 'for the rest of the run'):format(self.file, SPLIT_TRIES, FALLBACK)
  end
end

local function custom(self, layer, load, step)
  local split, layout, amounts = self.split_of[layer].ptr, self.in_force[layer].ptr, self.amounts
  if self.root then ask(self, layer, load, step) end
  if self.comm then
    lib.check(C.neap_comm_broadcast(self.comm, amounts, (1 + self.ranks * self.slots) * 8, 0))
  end
  if amounts[0] == USED then
    if not self.root then lib.check(C.neap_split_set(split, layout, load, amounts + 1)) end
    return
  end
  if amounts[0] == GIVEN_UP then self.rule = FALLBACK end
  lib.check(C.neap_split_compute(split, layout, load))
end

--- The split of a layer's exact counts, load = int64_t[ranks][experts]; valid until the layer's
-- next split. Collective if the policy has a split hook of its own; built-in rules run on every
-- rank.
function Session:split(layer, load, step)
  local start = C.neap_clock()
  local split = self.split_of[layer]
  if self.rule then
    lib.check(C.neap_split_compute(split.ptr, self.in_force[layer].ptr, load))
  else
    custom(self, layer, load, step)
  end
  self.split_us:add((C.neap_clock() - start) * 1e6)
  return split
end

--- What happened so far. Faults, late plans and plan times are known to rank 0, which waits here
-- for plans that are under way, so that a policy that hangs is named. Raises POLICY (strict).
function Session:report()
  if self.door then collect(self, -math.huge, true) end
  return {
    faults = self.faults, late = self.late, messages = self.messages,
    plan_ms = { mean = self.plan_ms:mean(), p95 = self.plan_ms:quantile(0.95) },
    split_us = { mean = self.split_us:mean(), p95 = self.split_us:quantile(0.95) },
  }
end

--- Collective: ends the worker.
function Session:close()
  if self.door then self.door:close() end
  if self.comm then C.neap_comm_close(self.comm) end
  self.door, self.comm = nil, nil
end

return session

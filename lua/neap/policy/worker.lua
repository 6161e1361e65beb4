-- SPDX-License-Identifier: Apache-2.0

--- A policy that runs in a process of its own, as the rank that plans sees it. Methods are those of
-- in_process.lua; besides, a worker that dies, hangs or answers nonsense is replaced by a
-- fresh one, and that is one fault. Nothing that a worker says is believed unchecked.

local lib = require 'neap.base.lib'
local policy = require 'neap.policy'
local precision = require 'neap.policy.precision'
local runtime = require 'neap.policy.runtime'
local split = require 'neap.engine.split'
local messages = require 'neap.policy.messages'

local ffi, C = lib.ffi, lib.C

local worker = {}

local Worker = {}
Worker.__index = Worker

local START_SECONDS = 10 -- that a program may take to start and load a policy
local MOST_IDS = 2 ^ 30  -- of requests; then they start anew
local GIVE_UP = 10       -- workers in a row that ended without one good answer
local MOST_NAME = 60     -- bytes of a policy's name
local MOST_KEPT = 2 ^ 20 -- steps of history that a policy can ask for
local MOST_STATE = 64 * 2 ^ 20 -- bytes that a layer's state may have in a checkpoint

--- A value as a Lua expression; numbers keep all their bits.
local function literal(value)
  if type(value) == 'number' then return ('%.17g'):format(value) end
  if type(value) ~= 'table' then return value == nil and 'nil' or ('%q'):format(value) end
  local items = {}
  for _, item in ipairs(value) do items[#items + 1] = literal(item) end
  if #items == 0 then
    for _, key in ipairs(lib.sorted_keys(value)) do
      items[#items + 1] = ('[%q]=%s'):format(key, literal(value[key]))
    end
  end
  return '{' .. table.concat(items, ',') .. '}'
end

local function list(array, count)
  local out = {}
  for i = 0, count - 1 do out[i + 1] = array[i] end
  return out
end

local function setup_text(options)
  local topology, slots_of = options.topology, {}
  for rank = 0, topology.ranks - 1 do slots_of[rank + 1] = topology:slots_of(rank) end
  return 'return ' .. literal {
    file = options.file, params = options.params, split = options.split, on = options.on,
    layers = options.layers, homes = topology.homes,
    fetch_work = options.fetch_work, far_price = options.far_price, travel = options.travel,
    seed = options.seed, slots_of = slots_of, node_of = list(topology.rank_node, topology.ranks),
    speed = list(topology.rank_speed, topology.ranks),
    cost = list(topology.expert_cost, topology.experts),
  }
end

--- Text of the message as one line that a terminal can be given.
local function text_of(message)
  return (ffi.string(message.text):gsub('%c+', ' '))
end

local function known_rule(rule)
  for _, name in ipairs(split.rules()) do
    if name == rule then return true end
  end
  return false
end

--- What the worker says of the policy that it has loaded; false if that makes no sense.
local function take_description(self, text)
  local plans_on, keep, plan, split_line, when, decide, save, restore, rule, name = text:match(
    '^(%l+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
  if not plans_on or not policy.PLANS_ON[plans_on] then return false end
  if rule ~= '-' and not known_rule(rule) then return false end
  keep = tonumber(keep)
  if keep < 1 or keep > MOST_KEPT then return false end
  self.plans_on, self.keep, self.rule = plans_on, keep, rule ~= '-' and rule or nil
  self.name = name:sub(1, MOST_NAME)
  self.lines = { plan = plan, split = split_line, when = when, precision = decide,
    save = save, restore = restore }
  return true
end

-- Errors that a policy can make while it is loaded.
local LOAD_ERRORS = { POLICY = true, USAGE = true }

local function start(self)
  local message, file = self.message, self.file
  lib.check(C.neap_worker_receive(self.ptr, START_SECONDS, START_SECONDS, message, nil))
  local text, kind = text_of(message), message.kind
  if kind == runtime.PLANNED and message.id == 0 and take_description(self, text) then return end
  self:close()
  local code, why = text:match '^(%u+) (.*)$'
  if kind ~= runtime.FAULT or not LOAD_ERRORS[code] then
    code, why = 'POLICY', ('policy %s: loading it %s'):format(file,
      kind == C.NEAP_WORKER_DEAD and ('ended the worker (%s)'):format(text)
      or (kind == 0 or kind == C.NEAP_WORKER_OVERDUE)
      and ('took more than %d s'):format(START_SECONDS) or "damaged the worker's memory")
  end
  error(setmetatable({ code = code, message = why, where = '' }, lib.Error), 0)
end

--- options: as runtime.open takes them, deadline, in seconds, and trusted (the policy may do what
-- the user may). Raises POLICY, USAGE, SYSTEM and ABSENT.
function worker.open(options)
  local topology, out = options.topology, ffi.new 'neap_worker *[1]'
  local slots, ranks = topology.slots, topology.ranks
  local self = setmetatable({
    file = options.file, layers = options.layers, deadline = options.deadline, slots = slots,
    load_bytes = ranks * topology.experts * 8, token_bytes = ranks * slots * 8,
    message = ffi.new 'neap_policy_message', buffer = ffi.new('int32_t[?]', slots),
    queue = {}, ends = 0, capacity = 2 * options.layers + 2,
    requests = {}, id = 0, -- those under way: what an answer's id stands for
  }, Worker)
  local most = math.max(self.load_bytes, precision.NUMBERS * 8) + slots * 4
  lib.check(C.neap_worker_open(setup_text(options), self.capacity + 1, most, slots * 4,
    self.token_bytes, options.trusted and 1 or 0, out), 2)
  self.ptr = ffi.gc(out[0], C.neap_worker_close)
  start(self)
  return self
end

--- Sends a request with up to two arrays; bytes of each: those of a load and of a layout, unless
-- they are told.
local function send(self, kind, about, step, layer, first, second, first_bytes, second_bytes)
  local message = self.message
  self.id = self.id % MOST_IDS + 1
  message.kind, message.about, message.seconds = kind, about, 0
  message.step, message.layer, message.id = step, layer, self.id
  self.requests[self.id] = { kind = kind, hook = messages.doing[kind], step = step, layer = layer,
    current = about ~= messages.KNOWN }
  lib.check(C.neap_worker_send(self.ptr, message, first, first_bytes or self.load_bytes, second,
    second_bytes or self.slots * 4))
end

--- Hands a load over to be planned on; false if too many are under way. known: history has it.
function Worker:request(known, plan_step, layer, load, expert_of)
  if self.given_up then return true end
  if C.neap_worker_pending(self.ptr) >= self.capacity then return false end
  send(self, messages.PLAN, known and messages.KNOWN or 0, plan_step, layer, load, expert_of)
  return true
end

--- Replaces the worker; returns the answer that tells of it. message: how it failed.
local function replace(self, message)
  local what = "stopped answering"
  if message.kind == C.NEAP_WORKER_OVERDUE then
    what = ('ran for more than %g s'):format(self.deadline)
  elseif message.kind == C.NEAP_WORKER_DEAD then
    local how = text_of(message)
    what = 'ended the worker' .. (how ~= '' and (' (%s)'):format(how) or '')
  elseif message.kind == C.NEAP_WORKER_DAMAGED then
    what = "damaged the worker's memory"
  elseif message.kind == runtime.FAULT then
    what = ('failed when a new worker loaded it (%s)'):format(text_of(message))
  end
  local doing = messages.doing[tonumber(message.about)]
  local answer = {
    outcome = runtime.FAULT, step = tonumber(message.step), layer = message.layer, seconds = 0,
    hook = doing, ended = true,
  }
  self.ends, self.requests, self.restarting = self.ends + 1, {}, true
  local status = C.neap_worker_restart(self.ptr)
  local then_what = 'a new worker was started'
  if status ~= 0 or self.ends >= GIVE_UP then
    self.given_up = true
    C.neap_worker_close(ffi.gc(self.ptr, nil))
    self.ptr = nil
    then_what = status ~= 0 and 'no new one can be started: ' .. ffi.string(C.neap_error_message())
      or ('that was the %dth in a row: the policy is not called any more'):format(GIVE_UP)
  end
  answer.message = ('policy %s: %s %s; %s'):format(
    self.file .. (self.lines[doing] and ':' .. self.lines[doing] or ''),
    doing and ('%s at step %d, layer %d'):format(doing, answer.step, answer.layer) or 'it', what,
    then_what)
  return answer
end

-- Outcomes that requests can have.
local OUTCOMES = {
  [messages.PLAN] = { [runtime.PLANNED] = true, [runtime.SKIPPED] = true, [runtime.FAULT] = true,
    [runtime.LATE] = true },
  [messages.SPLIT] = { [runtime.PLANNED] = true, [runtime.FAULT] = true },
  [messages.PRECISION] = { [runtime.PLANNED] = true, [runtime.FAULT] = true },
  [messages.HISTORY] = { [runtime.PLANNED] = true },
  [messages.SAVE] = { [runtime.PLANNED] = true, [runtime.FAULT] = true },
  [messages.RESTORE] = { [runtime.PLANNED] = true, [runtime.FAULT] = true },
}

--- A new worker's first answer: nil if it has loaded the policy.
local function decode_start(self)
  self.restarting = false
  if self.message.kind == runtime.PLANNED then return nil end
  self.message.about = 0
  return replace(self, self.message)
end

--- The message as an answer; nil for one that says only that a new worker has started. Hook, step
-- and layer are those of the request: of the message only id, outcome, time, text and payload are
-- read.
local function decode(self)
  local message = self.message
  local outcome, id, seconds = message.kind, message.id, message.seconds
  if id == 0 and self.restarting then return decode_start(self) end
  local request = self.requests[id]
  if not request or not OUTCOMES[request.kind][outcome] or seconds < 0 then
    message.kind, message.about = C.NEAP_WORKER_DAMAGED, request and request.kind or 0
    message.step, message.layer = request and request.step or 0, request and request.layer or 0
    return replace(self, message)
  end
  self.ends, self.requests[id] = 0, nil
  local answer = { outcome = outcome, step = request.step, layer = request.layer,
    seconds = seconds, hook = request.hook, current = request.current }
  if outcome == runtime.FAULT then
    answer.message = text_of(message)
  elseif outcome == runtime.PLANNED and answer.hook == 'plan' then
    answer.expert_of = ffi.new('int32_t[?]', self.slots)
    ffi.copy(answer.expert_of, self.buffer, self.slots * 4)
    self.stateful = self.stateful or text_of(message) == messages.FIELDS
  end
  return answer
end

--- Waits up to timeout seconds; an answer, a failure as an answer, or nil.
local function receive(self, timeout)
  lib.check(C.neap_worker_receive(self.ptr, timeout, self.deadline, self.message, self.buffer))
  if self.message.kind < 0 then return replace(self, self.message) end
  if self.message.kind > 0 then return decode(self) end
  if timeout > 0 then return replace(self, self.message) end
end

--- The next answer, or nil. wait: until no request is under way.
function Worker:next(wait)
  local answer = self.queue[1]
  if answer then return table.remove(self.queue, 1) end
  while not answer and self:pending() > 0 do
    answer = receive(self, wait and self.deadline + START_SECONDS or 0)
    if not wait then break end
  end
  return answer
end

function Worker:pending()
  return self.given_up and 0 or C.neap_worker_pending(self.ptr)
end

--- Makes a request and waits for its answer. Answers of other hooks that arrive meanwhile are kept
-- for next; a worker that fails in one of those is replaced and asked again. nil: there is none.
local function ask(self, kind, ...)
  local hook = messages.doing[kind]
  for _ = 1, 2 do
    if self.given_up then return nil end
    send(self, kind, ...)
    while true do
      local answer = receive(self, 2 * self.deadline + START_SECONDS)
      if answer and answer.hook == hook then return answer end
      self.queue[#self.queue + 1] = answer
      if self.given_up or self:pending() == 0 then break end
    end
  end
end

local function no_worker(self, hook, step, layer)
  return runtime.FAULT, ('policy %s:%d: %s at step %d, layer %d: there is no worker'):format(
    self.file, self.lines[hook], hook, step, layer)
end

--- Tokens of a split hook, written to out[ranks][slots]: outcome and message.
function Worker:split(step, layer, load, expert_of, out)
  local answer = ask(self, messages.SPLIT, 0, step, layer, load, expert_of)
  if not answer then return no_worker(self, 'split', step, layer) end
  if answer.outcome == runtime.PLANNED then
    ffi.copy(out, C.neap_worker_bulk(self.ptr), self.token_bytes)
  end
  return answer.outcome, answer.message
end

--- How a layer travels from a step on: outcome, and that or a message.
function Worker:precision(step, layer, before, numbers, expert_of)
  ffi.copy(self.message.text, precision.text(before))
  local answer = ask(self, messages.PRECISION, 0, step, layer, numbers, expert_of,
    precision.NUMBERS * 8)
  if not answer then return no_worker(self, 'precision', step, layer) end
  if answer.outcome ~= runtime.PLANNED then return answer.outcome, answer.message end
  local value = precision.parse(text_of(self.message))
  if value then return answer.outcome, value end
  return runtime.FAULT, ('policy %s:%d: precision at step %d, layer %d: the answer was damaged')
    :format(self.file, self.lines.precision, step, layer)
end

--- ---- what goes into checkpoints ---------------------------------------------------------------

--- A load of an earlier step, for the history alone.
function Worker:remember(layer, load)
  ask(self, messages.HISTORY, 0, 0, layer, load, nil, nil, 0)
end

--- What the policy wants a checkpoint to keep of a layer: outcome, and a text or message. Waits for
-- a hook that runs.
function Worker:save(step, layer)
  if tonumber(self.lines.save) == 0 then return runtime.SKIPPED end
  local parts, bytes, got = {}, nil, 0
  repeat
    local answer = ask(self, messages.SAVE, #parts, step, layer, nil, nil, 0, 0)
    if not answer then return no_worker(self, 'save', step, layer) end
    if answer.outcome ~= runtime.PLANNED then return answer.outcome, answer.message end
    bytes = bytes or tonumber(text_of(self.message)) or -1
    if not (bytes >= 0 and bytes <= MOST_STATE and bytes % 1 == 0) then
      return runtime.FAULT, ('policy %s:%d: save at step %d, layer %d: %s bytes; allowed are up to '
        .. '%d'):format(self.file, self.lines.save, step, layer, tostring(bytes), MOST_STATE)
    end
    parts[#parts + 1] = ffi.string(C.neap_worker_bulk(self.ptr),
      math.min(self.token_bytes, bytes - got))
    got = got + #parts[#parts]
  until got == bytes
  return runtime.PLANNED, table.concat(parts)
end

--- Hands it back: outcome and message.
function Worker:restore(step, layer, text)
  if tonumber(self.lines.restore) == 0 then return runtime.SKIPPED end
  local most, at = self.load_bytes + self.slots * 4, 0
  while true do
    local part = text:sub(at + 1, at + most)
    at = at + #part
    ffi.copy(self.message.text, tostring(#part))
    local answer = ask(self, messages.RESTORE, at < #text and 1 or 0, step, layer, part, nil, #part,
      0)
    if not answer then return no_worker(self, 'restore', step, layer) end
    if answer.outcome ~= runtime.PLANNED or at == #text then
      return answer.outcome, answer.message
    end
  end
end

function Worker:close()
  if self.ptr then C.neap_worker_close(ffi.gc(self.ptr, nil)) end
  self.ptr, self.given_up = nil, true
end

return worker

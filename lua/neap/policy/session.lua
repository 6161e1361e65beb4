-- SPDX-License-Identifier: Apache-2.0

--- How training and replay talk to a policy. One rank (0) plans, through a worker process or, with
-- in_process, itself; the others get its layouts by broadcast. A fault of the policy (error, crash,
-- deadline, invalid answer) is counted, and the last valid layout stays; with strict it is raised,
-- on all ranks, with code POLICY.
--
--   local s = session.open { comm =, topology =, layers =, policy = 'laer+minimax', seed = 1 }
--   for step = 0, steps - 1 do
--     s:advance(step)                        -- collective: plans that are ready become active
--     for layer = 0, layers - 1 do
--       …                                    -- unshard s:layout(layer), count tokens
--       s:split(step, layer, load)           -- how many tokens go where
--       s:record(step, layer, load)          -- off the critical path
--     end
--   end
--   s:close()

local arguments = require 'neap.base.arguments'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local options = require 'neap.base.options'
local runtime = require 'neap.policy.runtime'
local active_layouts = require 'neap.policy.active_layouts'
local past_loads = require 'neap.policy.past_loads'
local in_process = require 'neap.policy.in_process'
local series = require 'neap.base.series'
local policies = require 'neap.policy'
local splits = require 'neap.engine.split'
local topologies = require 'neap.engine.topology'
local travel = require 'neap.policy.travel'
local worker = require 'neap.policy.worker'

local ffi, C = lib.ffi, lib.C

-- Seconds that a hook may run, unless a command is told otherwise.
local session = { DEADLINE = 10 }

local Session = {}
Session.__index = Session

local FALLBACK = 'minimax'  -- what splits when a policy's split hook has failed
local SPLIT_TRIES = 3       -- faults in a row after which a split hook is not called any more
local MESSAGES = 20         -- of faults that are told and kept
local TEXT_BYTES = 512      -- of a message that is broadcast
local MOST_PRICE = 1e6      -- of ctx.far_price

local SPEC = {
  topology = { needed = true }, layers = { needed = true }, policy = { needed = true }, comm = {},
  seed = { default = 0 }, deadline = { default = session.DEADLINE }, strict = { default = false },
  in_process = { default = false }, trusted = { default = false },
  known = { default = false }, wait = { default = false }, remember = { default = false },
  listener = { default = {} }, travel = { type = 'table' },
  fetch_work = { type = 'number' }, far_price = { type = 'function' },
}

--- Tells a layer's split what work across nodes costs. Raises USAGE where its rule knows no price.
local function set_price(self, layer, selection)
  if self.rule ~= 'minimax' then
    errors.usage("policy '%s': far_price is of the split minimax; the policy's is %s",
      selection.text, self.rule or 'its own')
  end
  self.split_of[layer]:set_price(self.far_price)
end

--- What a selection says of work across nodes: a number, or nil. o: of session.open. Raises USAGE.
local function find_price(o, selection)
  if selection.far_price ~= 'cluster' then return selection.far_price end
  if not o.far_price then
    errors.usage("policy '%s': far_price=cluster is for neap simulate, suite and run --device=sim, "
      .. 'which describe one; here it is a number', selection.text)
  end
  return o.far_price()
end

local function open_worker(self, o)
  local selection = policies.resolve(o.policy)
  self.file = selection.file
  local open = o.in_process and in_process.open or worker.open
  local ok, opened = xpcall(open, errors.handler, {
    file = selection.file, params = selection.params, split = selection.split,
    on = selection.on, topology = self.topology, layers = self.layers, seed = o.seed,
    deadline = o.deadline, trusted = o.trusted, fetch_work = o.fetch_work,
    travel = o.travel and { dtype = o.travel.dtype, resident = o.travel.resident and 'yes' or nil },
    far_price = self.far_price and math.min(self.far_price, MOST_PRICE),
  })
  if ok then return opened end
  if not o.strict and opened.code == 'POLICY' then opened.code = 'FAILED' end
  error(opened, 0)
end

--- Loads policies, texts as policy.resolve takes them, and forgets them: one that cannot be loaded,
-- or has no such parameter, is found before anything has begun. in_process_too: looks only whether
-- their files are there. Raises USAGE, POLICY, FAILED and what worker.open raises.
-- : list of string, boolean?, boolean?
function session.check(texts, in_process_too, trusted)
  local tiny = topologies.open { ranks = 2, slots = 1, experts = 2 }
  for _, text in ipairs(texts) do
    policies.resolve(text)
    if not in_process_too then
      open_worker({ topology = tiny, layers = 1 }, { policy = text, seed = 0, deadline = 1,
        trusted = trusted }):close()
    end
  end
end

--- Broadcasts a short text from rank 0.
local function share_text(self, text)
  if not self.comm then return text end
  local buffer = ffi.new('char[?]', TEXT_BYTES)
  if text then ffi.copy(buffer, text) end
  self.comm:broadcast(buffer, TEXT_BYTES)
  return ffi.string(buffer)
end

--- Adds --trust-policies to a command that runs policies; arrives as args.trust_policies.
-- : Command
function session.trust_option(command)
  command:flag('--trust-policies', 'let policies write files, open sockets and start processes')
end

--- Adds --deadline to a command that runs policies; arrives as args.deadline.
-- : Command
function session.deadline_option(command)
  command:option('--deadline', ('seconds that a hook of a policy may run (default: %d)'):format(
    session.DEADLINE)):argname('<seconds>'):convert(arguments.positive '--deadline')
end

local function tell(self, message)
  self.messages[#self.messages + 1] = message
  if self.listener.fault then self.listener.fault(message) end
end

--- Counts a fault; strict: raises it.
local function fault(self, message)
  self.counted.faults = self.counted.faults + 1
  if self.strict then
    error(setmetatable({ code = 'POLICY', message = message, where = '' }, lib.Error), 0)
  end
  if self.counted.faults <= MESSAGES then tell(self, message) end
  if self.counted.faults == MESSAGES then
    tell(self, ('policy %s: further faults are only counted'):format(self.file))
  end
end

--- From here on layers travel as o.travel and the policy say; what is measured of it is measured.
local function open_travel(self, o, adapts)
  self.adapts = o.travel ~= nil and adapts
  if not o.travel then return end
  self.travels = travel.open { layers = self.layers, asked = o.travel, adapts = adapts,
    comm = self.comm, worker = self.worker,
    fault = function(message) fault(self, message) end,
    layout = function(layer) return self.active[layer] end }
  for name, share in pairs(self.travels.shares) do self.measured[name] = share end
end

--- Collective over comm. Options:
--   topology, layers, policy  what is planned, and a text that policy.resolve takes
--   comm                      nil: this process alone; its ranks need not be the topology's
--   seed (0), deadline (10)   of the random streams; seconds that a hook may run
--   strict, in_process        faults are raised; the policy runs in rank 0 itself
--   trusted                   the policy may do what the user may: write files, start processes, …
--   known                     loads are known before they are routed, as replay and simulation do
--   wait                      advance waits for all plans (up to the deadline), as replay wants
--   remember                  keeps what save needs: as many loads as the policy's history has
--   fetch_work                ctx.fetch_work of the policy, if it is known
--   far_price                 function: what far_price=cluster is, if it is known (rank 0)
--   travel                    of a training: { unshard =, dispatch =, dtype =, resident = }, how
--                             experts and tokens travel unless the policy's hook precision says
--                             otherwise, the dtype, and whether experts are resident
--   listener                  functions, each optional: fault(message), on rank 0, for faults that
--                             are not raised; split(step, layer, split) after a split, and
--                             record(step, layer, load) after a record, on all ranks
-- Raises USAGE for a policy that is not defined well, POLICY (strict) or FAILED for one that fails
-- while it is loaded.
-- : table -> Session
function session.open(given)
  local o = options.check(given, SPEC, 'session')
  local selection = policies.resolve(o.policy)
  if selection.on == 'known' and not o.known then
    errors.usage("policy '%s': training does not know loads before they are routed; on=known is "
      .. 'for replay and simulate', o.policy)
  end
  local topology, comm = o.topology, o.comm
  local self = setmetatable({
    topology = topology, layers = o.layers, strict = o.strict,
    always_wait = o.wait, listener = o.listener,
    comm = comm and comm:size() > 1 and comm:duplicate() or nil,
    messages = {}, split_faults = 0, decided = 0, own = 0, failing = {}, answered = {},
    split_of = {},
    -- Metrics by name. A step in the store has the mean of what a series has got in it, and how
    -- much a count has grown; a checkpoint keeps both.
    measured = { plan_ms = series.open(), split_us = series.open(), late_experts = series.open() },
    counted = { faults = 0, late = 0 },
  }, Session)
  self.root = not self.comm or self.comm:rank() == 0
  self.far_price = self.root and find_price(o, selection) or nil
  self.worker = self.root and open_worker(self, o) or nil
  local hooks = self.worker
  local meta = share_text(self, hooks and ('%s %s %.17g %s'):format(hooks.plans_on,
    hooks.rule or '', self.far_price or 0, hooks.lines.precision))
  self.name = hooks and policies.label(o.policy, hooks.name)
  local price, line
  self.plans_on, self.rule, price, line = meta:match '^(%S+) (%S*) (%S+) (%d+)$'
  self.far_price = tonumber(price)
  self.rule = self.rule ~= '' and self.rule or nil
  self.active = active_layouts.open(topology, self.layers, self.comm)
  for layer = 0, self.layers - 1 do
    self.split_of[layer] = splits.open(topology, self.rule or FALLBACK)
    if selection.far_price then set_price(self, layer, selection) end
  end
  open_travel(self, o, tonumber(line) > 0)
  self.past = o.remember and self.root
    and past_loads.open(topology.ranks, topology.experts, self.layers, self.worker.keep) or nil
  self.token_words = 1 + topology.ranks * topology.slots
  self.tokens = not self.rule and ffi.new('int64_t[?]', self.token_words) or nil
  return self
end

--- The layout that a layer began the step with, if its plan_now has changed that, so that
-- parameters travel late; else nil.
-- : integer -> Layout?
function Session:late_base(layer)
  local base = self.active:base(layer)
  if self.plans_on == 'known' or self.active[layer]:changed(base) == 0 then return nil end
  return base
end

--- The active layout of a layer; its content changes at advance, and at this layer's plan_now.
-- : integer -> Layout
function Session:layout(layer)
  return self.active[layer]
end

--- The message of an answer that is not valid. why: what the engine found.
local function invalid(self, hook, step, layer, why)
  return ('policy %s:%d: %s at step %d, layer %d: %s'):format(self.file, self.worker.lines[hook],
    hook, step, layer, why)
end

--- ---- planning ---------------------------------------------------------------------------------

local function plans_ahead(self)
  return self.plans_on == 'history' or self.plans_on == 'both'
end

local function request(self, known, plan_step, layer, load)
  if self.past and not known then self.past:add(layer, load) end
  local taken = self.worker:request(known, plan_step, layer, load,
    self.active[layer]:array())
  if not taken then self.counted.late = self.counted.late + 1 end
end

--- Hands load, int64_t[ranks][experts], the counts of a step, to the planner. Never waits: what
-- is too much is dropped and counted as late. Does nothing on ranks other than 0, nor for a
-- policy that plans on current counts only (plan_now has handed them over).
-- : integer, integer, int64_t[ranks * experts]
function Session:record(step, layer, load)
  if self.root and plans_ahead(self) then
    request(self, self.plans_on == 'both', step + 1, layer, load)
  end
  if self.listener.record then self.listener.record(step, layer, load) end
end

--- Notes whether a layer's last answer was one to go by. Until the next one its layout is, or is
-- not, what the policy wants.
local function note_answer(self, answer, good)
  self.answered[answer.layer], self.failing[answer.layer] = true, not good
  for layer = 0, answer.ended and self.layers - 1 or -1 do -- requests of others went with it
    self.answered[layer], self.failing[layer] = true, true
  end
end

--- What an answer says: a valid expert_of[slots], or nil. step: the first that it can serve.
local function read(self, answer, step)
  if answer.step < step or answer.outcome == runtime.LATE then
    self.counted.late = self.counted.late + 1
  end
  if answer.outcome == runtime.LATE then return end
  local planned, valid, why = answer.outcome == runtime.PLANNED, true, nil
  if planned then
    self.measured.plan_ms:add(answer.seconds * 1e3)
    valid, why = self.active:valid(answer.expert_of)
  end
  note_answer(self, answer, answer.outcome ~= runtime.FAULT and valid)
  if answer.outcome == runtime.FAULT then return fault(self, answer.message) end
  if valid then return planned and answer.expert_of or nil end
  fault(self, invalid(self, 'plan', answer.step, answer.layer, why))
end

--- Proposes the plans that are there. step: the one that begins.
local function collect(self, step, wait)
  while true do
    local answer = self.worker:next(wait)
    if not answer then return end
    local expert_of = read(self, answer, step)
    if expert_of then self.active:propose(answer.step, answer.layer, expert_of) end
  end
end

--- Collective: call it where a step begins. Takes over the plans that are ready; a late one
-- becomes active at a later advance. wait: waits for all plans, up to the deadline. Raises POLICY
-- (strict) and COMM.
-- : integer, boolean?
function Session:advance(step, wait)
  if self.root then collect(self, step, wait or self.always_wait or self.resumed) end
  self.resumed = false
  self.active:advance(step)
end

--- Waits for the plan that was made on the counts of this step and layer; nil if there is none.
-- Plans that come meanwhile are for an advance: other layers may be between forward and backward.
local function await(self, step, layer)
  while true do
    local answer = self.worker:next(true)
    if not answer then return nil end
    if answer.current and answer.layer == layer and answer.step == step then
      return read(self, answer, step)
    end
    local expert_of = read(self, answer, step + 1)
    if expert_of then self.active:propose(answer.step, answer.layer, expert_of) end
  end
end

--- Collective, before a layer's tokens travel: plans it on the counts of this very step, and its
-- layout, no other, is replaced. Experts that ranks keep stay in their slots, so that only what has
-- changed travels (layout:align). For policies that plan on these counts (self.plans_on is not
-- 'history'); does nothing for others. Raises POLICY (strict) and COMM.
-- : integer, integer, int64_t[ranks * experts]
function Session:plan_now(step, layer, load)
  if self.plans_on == 'history' then return end
  local expert_of
  if self.root then
    request(self, false, step, layer, load)
    expert_of = await(self, step, layer)
  end
  self.active:replace(step, layer, expert_of)
  if self.plans_on ~= 'known' then
    self.measured.late_experts:add((self.active[layer]:arrivals(self.active:base(layer))))
  end
end

--- ---- precision ------------------------------------------------------------------------------

--- Collective, where a step of a training begins: how each layer's experts and tokens travel in it,
-- { [layer] = { unshard =, dispatch = } }, by the policy's hook precision (adapts) or as the
-- session was told. news, of the steps before, known to rank 0: losses (the newest last), their
-- count, and perhaps wait_ms[layer], what ranks have waited for the layer's unshards in the last
-- step, mean over ranks. Raises POLICY (strict).
-- : integer, table -> table
function Session:travel(step, news)
  return self.travels:step(step, news)
end

--- ---- splitting --------------------------------------------------------------------------------

local USED, FAULTY, GIVEN_UP = 1, 0, 2

--- Rank 0: asks the policy; tokens[0] tells the outcome, the tokens follow.
local function ask(self, step, layer, load)
  local split, tokens, layout = self.split_of[layer], self.tokens, self.active[layer]
  local outcome, message = self.worker:split(step, layer, load, layout:array(), tokens + 1)
  if outcome == runtime.PLANNED then
    local valid, err = pcall(split.set, split, layout, load, tokens + 1)
    if valid then
      self.split_faults = 0
      tokens[0] = USED
      return
    end
    message = invalid(self, 'split', step, layer, err.message)
  end
  fault(self, message)
  self.split_faults = self.split_faults + 1
  tokens[0] = self.split_faults < SPLIT_TRIES and FAULTY or GIVEN_UP
  if tokens[0] == GIVEN_UP then
    tell(self, ("policy %s: split failed %d times in a row; '%s' is used for the rest of the run")
      :format(self.file, SPLIT_TRIES, FALLBACK))
  end
end

local function custom(self, step, layer, load)
  local split, layout, tokens = self.split_of[layer], self.active[layer], self.tokens
  if self.root then ask(self, step, layer, load) end
  if self.comm then self.comm:broadcast(tokens, self.token_words * 8) end
  if tokens[0] == USED then
    if not self.root then split:set(layout, load, tokens + 1) end
    return true
  end
  if tokens[0] == GIVEN_UP then self.rule, self.replaced = FALLBACK, true end
  split:compute(layout, load)
end

--- Counts a split by whether what the policy says was in force: its last plan, and its split.
local function count_decision(self, layer, own_split)
  local splits_itself = self.tokens ~= nil
  if not (splits_itself or self.answered[layer]) then return end -- it has not been asked yet
  self.decided = self.decided + 1
  if own_split and not self.failing[layer] then self.own = self.own + 1 end
end

--- The split of a layer's exact counts, load = int64_t[ranks][experts]; valid until the layer's
-- next split. Collective if the policy has a split hook of its own; built-in rules run on every
-- rank.
-- : integer, integer, int64_t[ranks * experts] -> Split
function Session:split(step, layer, load)
  local start = C.neap_clock()
  local split, own = self.split_of[layer], not self.replaced
  if self.rule then
    split:compute(self.active[layer], load)
  else
    own = custom(self, step, layer, load)
  end
  count_decision(self, layer, own)
  self.measured.split_us:add((C.neap_clock() - start) * 1e6)
  if self.listener.split then self.listener.split(step, layer, split) end
  return split
end

--- The split of a layer's last counts.
-- : integer -> Split
function Session:last_split(layer)
  return self.split_of[layer]
end

--- ---- checkpoints -------------------------------------------------------------------------------

--- Rank 0, between steps; step: the one that would begin. What a session that goes on from here
-- needs besides the active layouts: { past (past_loads.lua), proposals = a list of { step, layer,
-- expert_of }, states = { [layer] = text }, kept = 'saved', 'none' (the policy keeps nothing in its
-- fields), 'lost' (it does, and has no hook save) or 'failed' (that hook, for some layer) }. Asks
-- the policy if it has the hook; else it does not wait.
-- : integer -> table
function Session:save(step)
  local states, kept = {}, 'none'
  for layer = 0, self.layers - 1 do
    local outcome, text = self.worker:save(step, layer)
    if outcome == runtime.PLANNED then
      states[layer] = text
      if kept == 'none' then kept = 'saved' end
    elseif outcome == runtime.FAULT then
      kept = 'failed'
      fault(self, text)
    end
  end
  collect(self, step, false)
  if kept == 'none' and self.worker.stateful then kept = 'lost' end
  return { past = self.past, proposals = self.active:pending(), states = states, kept = kept }
end

--- A load of an earlier step, for the policy's history alone.
local function remember(self, layer, load)
  self.worker:remember(layer, load)
  if self.past then self.past:add(layer, load) end
end

--- Hands the policy the loads of earlier steps; the last one is to be planned on, unless the plan
-- of the layer is there.
local function recall(self, saved, planned)
  local past = saved.past:on(self.topology.ranks)
  for layer = 0, self.layers - 1 do
    local plans = plans_ahead(self) and not planned[layer]
    for back = past:count(layer), 1, -1 do
      local load, last = past:load(layer, back), back == 1 and plans
      local known = not last or self.plans_on == 'both'
      if known then remember(self, layer, load) end
      if last then request(self, known, saved.step, layer, load) end
    end
  end
end

--- Collective, before the first step: goes on where save was. saved: what save gave (rank 0), step,
-- and layouts, int32_t[layers][slots], the layouts that were active; nil where the ranks or slots
-- are others now: then all layers are planned anew. Raises LAYOUT and, strict, POLICY.
-- : table
function Session:restore(saved)
  for layer = 0, saved.layouts and self.layers - 1 or -1 do
    self.active[layer]:set(saved.layouts + layer * self.topology.slots)
  end
  self.resumed = true -- the first step waits for its plans
  if not self.root then return end
  local planned = {}
  for layer = 0, self.layers - 1 do
    local text = saved.states[layer]
    if text then
      local outcome, message = self.worker:restore(saved.step, layer, text)
      if outcome == runtime.FAULT then fault(self, message) end
    end
  end
  for _, proposal in ipairs(saved.layouts and saved.proposals or {}) do
    if self.active:valid(proposal.expert_of) then
      self.active:propose(proposal.step, proposal.layer, proposal.expert_of)
      planned[proposal.layer] = true
    end
  end
  recall(self, saved, planned)
end

--- Counts late experts anew: what a report tells is of the steps from here on, like its bytes.
function Session:forget_late()
  self.measured.late_experts = series.open()
end

--- The share of splits, from the first answer on, that were the policy's own; nil where all are.
-- A policy whose first answer, known only at the end, is a fault was never in force.
local function in_force(self)
  if self.own < self.decided then return self.own / self.decided end
  if self.decided == 0 and self.counted.faults > 0 then return 0 end
end

--- What happened so far. name: the policy's, as tables show it. in_force: the share of splits, from
-- the policy's first answer on, whose layout and split were what it wanted; the others had to go by
-- an older answer of it, the static layout or the split minimax, since it failed. Nil where that is
-- all of them. Faults, late plans
-- and plan times are known to rank 0, which waits here for plans that are under way, so that a
-- policy that hangs is named. Raises POLICY (strict).
-- : -> table
function Session:report()
  if self.worker then collect(self, -math.huge, true) end
  local measured, counted = self.measured, self.counted
  local plans_now = self.plans_on == 'current' or self.plans_on == 'both'
  return {
    name = self.name,
    plans_on = self.plans_on ~= 'history' and self.plans_on or nil,
    late_experts = plans_now and measured.late_experts:mean() or nil,
    faults = counted.faults, late = counted.late, messages = self.messages,
    in_force = in_force(self),
    fp8_unshard = measured.fp8_unshard and measured.fp8_unshard:mean() or nil,
    fp8_dispatch = measured.fp8_dispatch and measured.fp8_dispatch:mean() or nil,
    plan_ms = { mean = measured.plan_ms:mean(), p95 = measured.plan_ms:quantile(0.95) },
    split_us = { mean = measured.split_us:mean(), p95 = measured.split_us:quantile(0.95) },
  }
end

--- Collective: ends the worker.
function Session:close()
  if self.worker then self.worker:close() end
  if self.comm then self.comm:close() end
  self.worker, self.comm = nil, nil
end

return session

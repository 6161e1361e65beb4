-- SPDX-License-Identifier: Apache-2.0

--- Trains a MoE language model under a policy: the loop that recipes share, with its measurements.
--
--   local t = trainer.open { job = job, policy = 'laer+minimax', text = schedule, params = p }
--   local row = t:run()                  -- all steps, with a progress line
--   t:close()
--
-- Every rank calls everything (collective). A run depends on params, text and seed alone: two runs
-- have the same batches and the same initial parameters whatever their policy and ranks.

local checkpoint = require 'neap.engine.checkpoint'
local checkpoint_folder = require 'neap.train.checkpoint_folder'
local device = require 'neap.engine.device'
local evaluation = require 'neap.train.evaluation'
local hash = require 'neap.base.hash'
local lib = require 'neap.base.lib'
local recipe_pricing = require 'neap.simulate.recipe_pricing'
local metrics = require 'neap.runs.metrics'
local model_params = require 'neap.train.model_params'
local optim = require 'neap.nn.optimizer'
local OwnOptimizer = require 'neap.nn.own_optimizer'
local series = require 'neap.base.series'
local sessions = require 'neap.policy.session'
local tensor = require 'neap.engine.tensor'
local timeline = require 'neap.engine.timeline'
local topologies = require 'neap.engine.topology'
local trace = require 'neap.engine.trace'
local schedules = require 'neap.nn.schedule'
local shard_group = require 'neap.nn.shard_group'
local Transformer = require 'neap.nn.transformer'

local ffi, C = lib.ffi, lib.C

local trainer = {}

--- Parameters that a recipe can offer as they are; sizes are for two cores.
trainer.params = {
  steps = { default = 200, min = 1, integer = true, doc = 'optimizer steps' },
  batch = { default = 16, min = 1, integer = true, doc = 'sequences per step, over all ranks' },
  sequence = { default = 128, min = 1, integer = true, doc = 'tokens per sequence' },
  vocabulary = { default = 256, min = 1, integer = true,
    doc = 'ids that tokens can have: 256 for bytes, else as many as the tokenizer has' },
  layers = { default = 3, min = 1, integer = true, doc = 'transformer layers' },
  hidden = { default = 128, min = 1, integer = true, doc = 'width of the model' },
  heads = { default = 4, min = 1, integer = true, doc = 'attention heads' },
  kv_heads = { default = 4, min = 1, integer = true, doc = 'key and value heads' },
  experts = { default = 16, min = 1, integer = true, doc = 'experts per layer',
    elsewhere = { resident = 'experts that stay whole at home are --shard-group=resident',
      sharded = 'sharded experts are --shard-group=all, the default' } },
  top_k = { default = 2, min = 1, integer = true, doc = 'experts per token' },
  ffn = { default = { 256 }, min = 1, integer = true,
    doc = 'hidden size of the experts: one for all, or one each' },
  slots = { default = 4, min = 1, max = 2 ^ 20, integer = true, doc = 'expert slots per rank' },
  rate = { default = 2e-3, min = 0, doc = 'peak learning rate' },
  warmup = { default = 20, min = 0, integer = true, doc = 'steps of linear warm-up' },
  decay = { default = 0.1, min = 0, doc = 'weight decay of matrices' },
  clip = { default = 1, min = 0, doc = 'largest gradient norm; 0: no clipping' },
  aux_loss = { default = 0, min = 0, max = 1e6, doc = 'coefficient of the load-balance loss' },
  seed = { default = 1, min = 0, integer = true, doc = 'of parameters, batches and policies' },
  schedule = { default = 'laer',
    doc = 'of transfers: none, laer, neap; with fields: laer:chunks=2,keep=3 (docs/schedules.md)' },
  shard_group = shard_group.params.shard_group,
  ep = shard_group.params.ep,
  routing = { default = 'chosen', choices = { 'chosen', 'balanced' },
    doc = 'balanced: every expert gets as many tokens, whatever the router says (force-balanced)' },
  dtype = { default = 'f32', on_cuda = 'bf16', choices = { 'f32', 'bf16' },
    doc = 'of parameters and activations; masters, moments, gradients and sums are f32' },
  unshard = { default = 'dtype', choices = { 'dtype', 'fp8' },
    doc = 'how parameters of experts travel to their slots: as they are, or in FP8 '
      .. '(docs/precision.md)' },
  dispatch = { default = 'dtype', choices = { 'dtype', 'fp8' },
    doc = 'how tokens travel to experts: as they are, or in FP8 (docs/precision.md); what comes '
      .. 'back, and gradients, travel as they are' },
  exact = { default = true, on_cuda = false,
    doc = 'losses that no policy, layout or number of ranks changes; --no-exact is faster' },
}
for name, spec in pairs(evaluation.params) do trainer.params[name] = spec end
for name, spec in pairs(model_params.specs) do trainer.params[name] = spec end

local Trainer = {}
Trainer.__index = Trainer

--- Relative work of a token of each expert: its hidden size; nil where all are equal.
local function costs(ffn)
  return #ffn > 1 and ffn or nil
end

--- Sequences first to last - 1 of the global batch are this rank's.
local function share(batch, rank, ranks)
  return math.floor(batch * rank / ranks), math.floor(batch * (rank + 1) / ranks)
end

local function fill(row, more)
  for name, value in pairs(more) do row[name] = value end
  return row
end

local function open_model(self, p)
  return Transformer.new(fill({
    comm = self.comm, topology = self.topology, session = self.session,
    layers = p.layers, hidden = p.hidden, heads = p.heads, kv_heads = p.kv_heads, top_k = p.top_k,
    ffn = #p.ffn > 1 and p.ffn or p.ffn[1], sequence = p.sequence, batch = self.last - self.first,
    vocabulary = rawget(p, 'vocabulary'), -- nil: bytes
    total_batch = p.batch, aux_loss = p.aux_loss, seed = p.seed, exact = p.exact, dtype = p.dtype,
    schedule = self.schedule, group = self.group,
    balanced = rawget(p, 'routing') == 'balanced',
    unshard = self.session.adapts and self.group ~= 'resident' and 'either'
      or rawget(p, 'unshard'),
    dispatch = rawget(p, 'dispatch'), loss = self.own.loss,
  }, model_params.of(p)))
end

local function open_optimizer(self, p)
  local given = { comm = self.comm, rate = self.own.rate or p.rate, warmup = p.warmup,
    steps = p.steps, decay = p.decay, clip = p.clip, shards = self.model:shards(),
    update = self.own.update }
  return (given.update and OwnOptimizer or optim.AdamW).new(self.model.parameters, given)
end

--- Functions of a recipe in the place of ours.
local function own_functions(options)
  local own = { rate = options.rate, update = options.update, loss = options.loss }
  for _, name in ipairs { 'rate', 'update', 'loss' } do
    if own[name] ~= nil and type(own[name]) ~= 'function' then
      lib.raise('ARGUMENT', ('trainer: %s is a %s; it must be a function'):format(name,
        type(own[name])), 3)
    end
  end
  return own
end

local TRACES = 100 -- runs that can write a trace of one name at once

--- The trace that a run which goes on has written so far, and a lock on it: nil if that is not
-- there, or another run's.
local function earlier_trace(self, path)
  if self.done == 0 or not checkpoint_folder.exists(path) then return nil end
  local free, lock = pcall(checkpoint.lock, path)
  if not free then return nil end
  local whole, old = pcall(trace.open, path)
  if whole and old.steps >= self.done and old.layers == self.layers
      and old.ranks == self.job.ranks and old.experts == self.params.experts then
    return old, lock
  end
  lock:close()
end

--- A writer of the whole trace, which takes the place of what there was of it.
local function go_on(self, path, shape, old, lock)
  local writer = trace.writer(path .. '.part', shape)
  for step = 0, self.done - 1 do
    for layer = 0, old.layers - 1 do writer:append(step, layer, old:load(step, layer)) end
  end
  assert(os.rename(writer.path, path))
  writer.path = path
  lock:close()
  old:close()
  return writer
end

--- What travels in FP8, for a trace: nil if nothing does.
local function in_fp8(self, p)
  local list = {}
  if self.session.adapts then return 'as the policy says' end
  for _, kind in ipairs { 'unshard', 'dispatch' } do
    if rawget(p, kind) == 'fp8' then list[#list + 1] = kind end
  end
  return #list > 0 and table.concat(list, ', ') or nil
end

local function open_trace(self, path, p)
  if not path or path == '' or self.job.rank ~= 0 then return nil end
  local shape = {
    layers = self.layers, ranks = self.job.ranks, experts = p.experts,
    metadata = {
      seed = p.seed, policy = self.policy, slots = p.slots, node_size = self.job.node_size,
      top_k = p.top_k, tokens_per_step = p.batch * p.sequence, text = self.text:describe(),
      model = ('transformer layers=%d hidden=%d experts=%d ffn=%s dtype=%s%s'):format(p.layers,
        p.hidden, p.experts, table.concat(p.ffn, ','), p.dtype, model_params.text(p)),
    },
  }
  shape.metadata.fp8 = in_fp8(self, p)
  local old, lock = earlier_trace(self, path)
  if old then return go_on(self, path, shape, old, lock) end
  self.trace_begins = self.done
  if self.done > 0 then
    shape.metadata.first_step = self.done
    self.job:say(('neap: %s: has no trace of the first %d steps on %d ranks; it begins after them')
      :format(path, self.done, self.job.ranks))
  end
  local writer = trace.writer(path, shape, TRACES)
  if writer.path ~= path then
    self.job:say(('neap: another run is writing %s; this one writes %s'):format(path, writer.path))
  end
  return writer
end

--- What the steps would take on a cluster, machine, if their layers were those of model (a name;
-- nil: the trained one).
local function open_pricing(self, machine, model)
  local p = self.params
  return recipe_pricing.open { machine = machine, model = recipe_pricing.model(model, p,
    self.job.ranks), topology = self.topology, layers = self.layers, schedule = self.schedule,
    shard_group = self.group, unshard = rawget(p, 'unshard'), dispatch = rawget(p, 'dispatch') }
end

--- On rank 0: of all steps, with --device=sim, or of a few besides; price: trainer.open's.
local function open_pricings(self, price)
  local sim = self.job.sim
  if self.job.rank ~= 0 then return end
  self.pricing = sim and open_pricing(self, sim.machine, sim.model) or nil
  self.beside = price and not sim and open_pricing(self,
    recipe_pricing.machine(price.cluster, self.job.ranks), price.model) or nil
end

local PRICED = 10 -- of so many steps one is priced besides being trained

--- What prices the step under way, or nil: all steps are with --device=sim, else a few.
local function pricing_now(self)
  local due = self.done % PRICED == PRICED - 1 or self.done == self.params.steps - 1
  return self.pricing or due and self.beside or nil
end

--- What the session tells the trainer: balance of every split, loads for the trace.
local function listener(self)
  return {
    fault = function(message) io.stderr:write('neap: ', message, '\n') end,
    split = function(_, layer, split)
      local balance = split:balance()
      self.balance:add(balance)
      if self.recorder then self.recorder:balance(balance) end
      if self.prices then
        self.prices:layer(layer, self.session:layout(layer), split, balance.tokens,
          self.session:late_base(layer))
      end
      self.step_imbalance = math.max(self.step_imbalance, balance.imbalance)
    end,
    record = function(step, layer, load)
      if self.writer then self.writer:append(step - self.trace_begins, layer, load) end
      if self.recorder then self.recorder:load(step, layer, load, self.session) end
    end,
  }
end

--- Options: job (main/rank.lua), params (values of trainer.params), policy, text (text.schedule's),
-- and perhaps trace (path of the routing trace to write; self.trace is what rank 0 writes: while
-- another run writes that one, a name beside it), label (of the progress line), schedule (a table
-- instead of params.schedule), seconds (that run may take; it ends with the step that is under way
-- then), price ({ cluster = name, model = name or nil }: tells the time that every tenth step would
-- take there, with this training's routing, layouts and splits), remark (false: no note where
-- policies hardly differ), wait (a step begins when all plans are there: layouts do not depend on
-- time), rate (a function that gives the learning rate of a step, from 1, in place of params.rate
-- and its schedule), update (the optimizer's rule, nn/own_optimizer.lua) and loss (a function,
-- nn/own_loss.lua).
-- : table -> Trainer
function trainer.open(options)
  local job, p = options.job, options.params
  if job.timeline then job.timeline:check_steps(p.steps) end
  if options.text.check then
    options.text:check(p.sequence, rawget(p, 'vocabulary'), { 'training' })
  end
  local self = setmetatable({
    job = job, params = p, policy = options.policy, text = options.text,
    label = options.label or options.policy, comm = job.comm:duplicate(), done = 0,
    balance = series.balance(), losses = series.open(), seconds = series.open(),
    sums = { busy = 0, seconds = 0, tokens = 0, unshard = 0, late = 0, reduce = 0, other = 0 },
    aside = { tokens = 0, unshard = 0 }, -- bytes that evaluations have sent
    earlier = {}, -- what spent gave before a resume
    bytes = not options.text.has_bytes or options.text:has_bytes(),
    limit = options.seconds, trace_begins = 0,
    layers = p.layers - (rawget(p, 'dense_layers') or 0), own = own_functions(options),
    schedule = schedules.resolve(options.schedule or p.schedule),
  }, Trainer)
  device.forget_most() -- all ranks are here: earlier trainings have closed
  local group, homes = shard_group.resolve(p.shard_group, rawget(p, 'ep'), job.ranks,
    rawget(p, 'unshard'))
  self.group = group
  self.topology = topologies.open { node_of = job.node_of, ranks = job.ranks, slots = p.slots,
    experts = p.experts, cost = costs(p.ffn), speed = job.sim and job.sim.machine.speed,
    homes = homes }
  if job.remark and options.remark ~= false then job:remark(self.topology:remark()) end
  open_pricings(self, options.price)
  self.session = sessions.open { comm = self.comm, topology = self.topology, layers = self.layers,
    policy = options.policy, seed = p.seed, strict = job.strict, in_process = job.in_process,
    trusted = job.trusted, deadline = job.deadline, wait = options.wait,
    remember = job.checkpoints ~= nil, listener = listener(self),
    travel = { unshard = rawget(p, 'unshard') or 'dtype', dtype = p.dtype,
      dispatch = rawget(p, 'dispatch') or 'dtype', resident = homes ~= nil },
    fetch_work = self.pricing and self.pricing:fetch_work(p.batch * p.sequence * p.top_k) or nil,
    far_price = self.pricing and function() return self.pricing:far_price() end or nil }
  self.first, self.last = share(p.batch, job.rank, job.ranks)
  self.ids = tensor.new('i32', (self.last - self.first) * p.sequence)
  self.targets = tensor.new('i32', (self.last - self.first) * p.sequence)
  self.model = open_model(self, p)
  self.optimizer = open_optimizer(self, p)
  self.evaluation = evaluation.open(self)
  self.saver = job.checkpoints and job.checkpoints:training(self) or nil -- may resume
  self.writer = open_trace(self, options.trace, p)
  self.trace = self.writer and self.writer.path or options.trace
  self.recorder = job.record and job:record({ policy = self.policy, seed = p.seed,
    trace = self.writer and self.trace }, self.text)
  if self.saver and self.recorder then self.saver:remember_rows() end
  self.sent = { bytes_tokens = 0, bytes_unshard = 0, bytes_reduce = 0, bytes_late = 0 } -- before
  self.meter = timeline.open()
  self.comm:barrier() -- rank 0 has started the policy: nobody's first step is a wait for that
  return self
end

--- ---- steps ------------------------------------------------------------------------------------

--- This rank's sequences of a batch. draw: seed and step, perhaps part and at, as text:sample takes
-- them.
-- : Schedule or Text, table
function Trainer:fill(text, draw)
  local p = self.params
  local ids, targets = self.ids:data(), self.targets:data()
  for sequence = self.first, self.last - 1 do
    local offset = (sequence - self.first) * p.sequence
    text:sample(draw.seed, draw.step, sequence, p.sequence, ids + offset, targets + offset,
      draw.part, rawget(p, 'vocabulary'), draw.at)
  end
end

-- What every rank measures, and what is summed over ranks, in this order: seconds that it computed,
-- waited (by what for) and took, and bytes that it sent.
local MEASURED = { 'busy', 'seconds', 'tokens', 'unshard', 'late', 'reduce', 'other',
  'bytes_tokens', 'bytes_unshard', 'bytes_reduce', 'bytes_late' }
local EXPOSED = { 'tokens', 'unshard', 'late', 'reduce', 'other' }

--- Sums over ranks of what they have measured. Collective.
local function sum_over_ranks(comm, values)
  local buffer, sums = ffi.new('double[?]', #MEASURED), {}
  for i, name in ipairs(MEASURED) do buffer[i - 1] = values[name] end
  comm:all_reduce(buffer, #MEASURED, 'f64')
  for i, name in ipairs(MEASURED) do sums[name] = buffer[i - 1] end
  return sums
end

--- Puts the bytes that this rank has sent into values; of parameters, those of refreshes too.
local function add_bytes_sent(self, values)
  local tokens, unshard, reduce, late = 0, 0, 0, 0
  for layer = 0, self.layers - 1 do
    tokens = tokens + self.model.experts[layer]:cost().sent
    local traffic = self.model.stores[layer]:traffic()
    unshard = unshard + traffic.unshard + traffic.refresh
    reduce, late = reduce + traffic.reduce, late + traffic.late
  end
  values.bytes_tokens = tokens - self.aside.tokens
  values.bytes_unshard = unshard - self.aside.unshard
  values.bytes_reduce, values.bytes_late = reduce, late
end

--- After an evaluation: what it has sent is no step's.
local function set_aside(self, before)
  local now = {}
  add_bytes_sent(self, now)
  self.aside.tokens = self.aside.tokens + now.bytes_tokens - before.bytes_tokens
  self.aside.unshard = self.aside.unshard + now.bytes_unshard - before.bytes_unshard
end

--- The validation loss, if it is time for one. Collective.
local function evaluate(self)
  if not (self.evaluation and self.evaluation:due(self.done)) then return end
  local before = {}
  add_bytes_sent(self, before)
  self.evaluation:run(self.done - 1)
  set_aside(self, before)
end

--- Of sums over ranks of so many steps, as a row has them: shares of the time of all ranks, and
-- what is waited for, mean over ranks.
local function shares(self, sums, steps)
  local row, ranks = { utilization = sums.busy / sums.seconds, exposed_ms = {} }, self.job.ranks
  local waited = 0
  for _, name in ipairs(EXPOSED) do
    waited = waited + sums[name]
    row.exposed_ms[name] = 1e3 * sums[name] / (ranks * steps)
  end
  row.exposed_ms.late = sums.late > 0 and row.exposed_ms.late or nil
  row.exposed = waited / sums.seconds
  return row
end

--- Hands what the ranks have measured of the last step to the store, if the run is recorded. It is
-- done when the next step begins, on that one's time, so that waiting here for slower ranks is seen
-- as such. Collective.
local function record_last(self)
  if not self.measured then return end
  local sums, before = sum_over_ranks(self.comm, self.measured), self.sent
  self.measured = nil
  if not self.recorder then return end
  local p, seconds = self.params, self.seconds[self.done]
  local row = self.simulated or shares(self, sums, 1)
  if not self.simulated then
    row.step_ms, row.tokens_per_second = 1e3 * seconds, p.batch * p.sequence / seconds
  end
  row.loss, row.tokenised = self.losses[self.done], not self.bytes or nil
  row.eval_loss = self.evaluation and self.evaluation:of(self.done - 1)
  row.bytes_per_step = { tokens = sums.bytes_tokens - before.bytes_tokens,
    unshard = sums.bytes_unshard - before.bytes_unshard,
    reduce = sums.bytes_reduce - before.bytes_reduce, late = sums.bytes_late > 0
    and sums.bytes_late - before.bytes_late or nil }
  self.recorder:step(self.done - 1, row, self.session)
  self.sent = sums
end

--- Sums over all ranks and steps, those before a resume among them: seconds by what they were spent
-- on, bytes by kind. Collective.
-- : -> table
function Trainer:spent()
  record_last(self)
  local values = self.sums
  add_bytes_sent(self, values)
  local sums = sum_over_ranks(self.comm, values)
  for name, value in pairs(sums) do sums[name] = value + (self.earlier[name] or 0) end
  return sums
end

--- How experts and tokens travel in the step that begins, which a policy may decide by what was so
-- far. Collective.
local function travel(self)
  local news, waits = { losses = self.losses, count = self.losses.count }, self.unshard_waits
  if self.session.adapts and waits then
    self.comm:all_reduce(waits, self.layers, 'f64')
    news.wait_ms = {}
    for l = 0, self.layers - 1 do news.wait_ms[l] = 1e3 * waits[l] / self.job.ranks end
  end
  local travels = self.session:travel(self.done, news)
  if self.session.adapts then self.model:set_travel(travels) end
end

--- What a step is, as spans of a timeline.
local function work(self)
  local whole, planning = timeline.begin 'step', timeline.begin 'plan'
  self.session:advance(self.done)
  travel(self)
  timeline.finish('plan', planning)
  self:fill(self.text, { seed = self.params.seed, step = self.done })
  local loss = self.model:forward(self.ids, self.targets, self.done)
  self.model:backward()
  local began = timeline.begin 'optimizer'
  self.optimizer:step()
  self.model:adapt_bias()
  timeline.finish('optimizer', began)
  timeline.finish('step', whole)
  return loss
end

--- What records the step: the job's timeline, if this is the step that it wants, or the trainer's
-- own.
local function start_recorder(self)
  local wanted = self.job.timeline and self.job.timeline:start(self.done)
  if not wanted then self.meter:start(self.done) end
  return wanted, wanted or self.meter
end

--- Adds what this rank has done in the step that has ended to the sums of all steps; its values.
-- What a rank computes, the processor's clock tells where ranks may have to share processors, and a
-- GPU's events on a GPU.
local function take_measures(self, began, busy, recorder)
  local seconds, use = C.neap_clock() - began, recorder:time_use()
  local cpu = self.job.device ~= 'cuda'
  local values = use.exposed
  self.unshard_waits = self.session.adapts and recorder:waits('unshard', self.layers)
  values.seconds, values.busy = seconds, cpu and C.neap_thread_seconds() - busy or use.computing
  for name, value in pairs(values) do self.sums[name] = self.sums[name] + value end
  add_bytes_sent(self, values)
  self.seconds:add(seconds)
  return values
end

--- One optimizer step. Returns its loss: nats per byte, the mean over the tokens of all ranks.
-- : -> number
function Trainer:step()
  local began, busy = C.neap_clock(), C.neap_thread_seconds()
  local wanted, recorder = start_recorder(self)
  record_last(self)
  self.step_imbalance, self.prices = 0, pricing_now(self)
  C.neap_comm_step(self.done)
  local loss = work(self)
  recorder:stop()
  local measured = take_measures(self, began, busy, recorder)
  if wanted then self.job.timeline:keep(self.comm, self.label) end
  local priced = self.prices and self.prices:step()
  self.simulated = self.pricing and priced
  self.done = self.done + 1
  self.losses:add(loss)
  if self.job.recorded then self.measured = measured end
  evaluate(self)
  if self.saver then self.saver:step_done() end
  return loss
end

local function progress_text(self, tokens)
  local last = self.evaluation and self.evaluation:last()
  return ('loss %.3f%s  %.0f tokens/s  imbalance %.2f'):format(self.losses[self.losses.count],
    last and ('  val loss %.3f'):format(last) or '', tokens / self.seconds:recent(10),
    self.step_imbalance)
end

--- Whether the time is over, as rank 0's clock says. Collective where there is a limit.
local function is_late(self, ends)
  if not ends then return false end
  local late = ffi.new('int32_t[1]', C.neap_clock() >= ends and 1 or 0)
  self.comm:broadcast(late, 4)
  return late[0] == 1
end

--- All remaining steps, or those that there is time for, with a progress line on rank 0. Returns
-- the summary.
-- : -> table
function Trainer:run()
  local p = self.params
  local bar = self.job:progress(p.steps, self.label)
  local ends = self.limit and C.neap_clock() + self.limit
  while self.done < p.steps do
    self:step()
    bar:update(self.done, function() return progress_text(self, p.batch * p.sequence) end)
    if is_late(self, ends) then break end
  end
  bar:close()
  return self:summary()
end

--- ---- summary ----------------------------------------------------------------------------------

--- FNV-1a hash of the bits of all losses, as text: runs that agree to the bit have the same.
local function digest(losses)
  local state = hash.START
  for i = 1, losses.count do state = hash.number(state, losses[i]) end
  return bit.tohex(state, 16)
end

--- What the ranks have measured of all steps; sums: over ranks.
local function measured(self, sums)
  local p, steps = self.params, self.done
  local workers = self.job.device == 'cuda' and self.job.ranks
    or math.min(self.job.processors or C.neap_processors(), self.job.ranks)
  local row = shares(self, sums, steps)
  row.tokens_per_second = p.batch * p.sequence * steps / self.seconds.sum
  row.ideal_tokens_per_second = p.batch * p.sequence * steps * workers / sums.busy
  row.step_ms = 1e3 * self.seconds.sum / steps
  row.ideal_ms = 1e3 * sums.busy / (steps * workers)
  return row
end

--- Figures on the cluster that the job names, known to rank 0, with those of this machine in host.
local function simulated(self, host)
  local row, sim = self.pricing and self.pricing:row() or {}, self.job.sim
  row.simulated, row.cluster, row.model, row.host = true, sim.cluster, sim.model, host
  return row
end

--- The row of the run (neap.runs.metrics), with segments (of a resumed run: where each part began,
-- and under what), losses (list), digest (of their bits), device_bytes
-- (the most that all ranks of this process have held on this rank's device) and what session:report
-- tells. With --device=sim time is that on the cluster; host has this machine's.
-- Collective; the same on every rank, apart from what only rank 0 knows of the policy.
-- : -> table
function Trainer:summary()
  if self.saver then self.saver:finish() end
  local p, steps, sums = self.params, self.done, self:spent()
  local row, host = self.balance:summary(), measured(self, sums)
  fill(row, self.job.sim and simulated(self, host) or host)
  row.cluster_step_ms = self.beside and self.beside:row().step_ms or nil
  row.policy, row.steps, row.seed, row.ranks = self.policy, steps, p.seed, self.job.ranks
  row.dtype, row.digest = p.dtype, digest(self.losses)
  row.losses = {}
  for step = 1, steps do row.losses[step] = self.losses[step] end
  row.loss = self.losses:recent(math.max(1, math.floor(steps / 10)))
  row.tokenised = not self.bytes or nil
  if self.evaluation then fill(row, self.evaluation:row()) end
  row.bytes_per_step = { tokens = sums.bytes_tokens / steps, unshard = sums.bytes_unshard / steps,
    reduce = sums.bytes_reduce / steps,
    late = sums.bytes_late > 0 and sums.bytes_late / steps or nil }
  row.device_bytes = select(2, device.held())
  fill(row, self.session:report())
  row.share_of_balanced = self.job.balanced_ms and self.job.balanced_ms / row.step_ms or nil
  row.segments = self.saver and self.saver:segments()
  metrics.complete(row)
  if self.recorder then self.recorder:close(row) end
  if self.job.judge then self.job:judge(row) end
  return row
end

--- Collective. The collector frees most of the memory; it does not know how much that is, so it is
-- called.
function Trainer:close()
  record_last(self)
  if self.saver then self.saver:close() end
  if self.writer then self.writer:close() end
  self.meter:close()
  if self.evaluation then self.evaluation:close() end
  if self.pricing then self.pricing:close() end
  if self.beside then self.beside:close() end
  self.session:close()
  self.model:close()
  self.comm:close()
  self.model, self.optimizer, self.ids, self.targets = nil, nil, nil, nil
  collectgarbage()
  collectgarbage() -- what the first one's tensors have kept alive
end

return trainer

--- Simulates training steps of a model on a described cluster under a policy: the policy plans and
-- splits as in training, on synthetic or recorded routing; the cluster tells how long it takes.
--
--   local s = simulate.open { cluster = 'a100x32', model = 'mixtral-8x7b-e8k2', policy = 'laer' }
--   local row = s:run(10)        -- figures of 10 steps
--   s.cluster                    -- of the last step: spans, times, critical path
--   s:close()

local lib = require 'neap.lib'
local clusters = require 'neap.cluster'
local costs = require 'neap.cluster.costs'
local failure = require 'neap.failure'
local metrics = require 'neap.metrics'
local models = require 'neap.cluster.models'
local program = require 'neap.cluster.program'
local sessions = require 'neap.session'
local synth = require 'neap.synth'
local topologies = require 'neap.topology'

local ffi, C = lib.ffi, lib.C

local simulate = {}

local Simulation = {}
Simulation.__index = Simulation

local DEFAULTS = {
  policy = 'laer', schedule = 'laer', chunks = 1, token_group = 'all', shard_group = 'all',
  tensor = 1, parts = 1, elementwise = 1, gradient_bytes = 2, accumulate = false, seed = 1,
  warm_up = 5, in_process = true, strict = false,
}
local OPTIONAL = { cluster = true, model = true, trace = true, slots = true }

local function take_options(given)
  local o = {}
  for name, value in pairs(DEFAULTS) do o[name] = value end
  for _, name in ipairs(lib.sorted_keys(given)) do
    if DEFAULTS[name] == nil and not OPTIONAL[name] then
      local known = lib.sorted_keys(DEFAULTS)
      for _, other in ipairs(lib.sorted_keys(OPTIONAL)) do known[#known + 1] = other end
      lib.raise('ARGUMENT', ("simulate: unknown option '%s'%s"):format(name, lib.hint(name, known)),
        3)
    end
    o[name] = given[name]
  end
  return o
end

local function check_schedule(name)
  if not program.known[name] then
    failure.usage("schedule is '%s'%s; allowed: %s", tostring(name),
      lib.hint(tostring(name), program.schedules), table.concat(program.schedules, ', '))
  end
end

local function check_whole(name, value, low, high)
  if type(value) ~= 'number' or value % 1 ~= 0 or value < low or value > high then
    failure.usage('%s is %s; it must be a whole number from %d to %d', name, tostring(value), low,
      high)
  end
end

--- Where loads come from: recorded (a trace), else synthetic.
local function open_source(self)
  local o, m = self.options, self.model
  if not o.trace then
    local source = synth.open { ranks = self.machine.ranks, experts = m.experts, top_k = m.top_k,
      tokens = m.tokens, layers = m.layers, sigma = m.load.sigma, tau = m.load.tau,
      rho = m.load.rho, seed = o.seed }
    return function(step, layer, out) return source:load(step, layer, out) end
  end
  local t = o.trace
  if t.ranks ~= self.machine.ranks or t.experts ~= m.experts or t.layers < m.layers then
    failure.usage('%s has %d ranks, %d experts and %d layers; cluster and model want %d, %d and %d',
      t.path, t.ranks, t.experts, t.layers, self.machine.ranks, m.experts, m.layers)
  end
  return function(step, layer, out) return t:load(step % t.steps, layer, out) end
end

--- Work of a token by expert, where experts differ.
local function expert_costs(model)
  if type(model.ffn) ~= 'table' or #model.ffn == 1 then return nil end
  return model.ffn
end

local function open_arrays(self)
  local t = self.topology
  self.counts = ffi.new('int64_t[?]', t.ranks * t.experts)
  self.slot_tokens = ffi.new('int64_t[?]', t.slots)
  self.port_tokens = ffi.new('int64_t[?]', t.ranks)
  self.uplink_tokens = ffi.new('int64_t[?]', t.nodes)
  self.expert_bytes = ffi.new('double[?]', t.experts)
  for e = 0, t.experts - 1 do
    self.expert_bytes[e] = self.costs:expert_parameters(e) * self.model.bytes
  end
end

--- Options: cluster and model (what their describe takes), policy, schedule (program.lua), chunks,
-- token_group and shard_group ('all', 'node' or a number), tensor (ranks that share attention),
-- parts (smaller micro-batches that one is cut into), elementwise (costs.lua), gradient_bytes (of a
-- number of a gradient under way), accumulate (gradients are sent once a step), slots (a rank, of
-- the policy's layouts; default: the model's), trace (trace.open's; default: synthetic loads),
-- seed, warm_up (micro-batches before the first step that counts), in_process, strict. Raises
-- USAGE.
function simulate.open(given)
  local self = setmetatable({ options = take_options(given) }, Simulation)
  local o = self.options
  self.machine, self.model = clusters.describe(o.cluster), models.describe(o.model)
  check_schedule(o.schedule)
  check_whole('chunks', o.chunks, 1, 64)
  check_whole('parts', o.parts, 1, 1024)
  check_whole('tensor', o.tensor, 1, self.machine.ranks)
  local slots = o.slots or self.model.slots
  if slots * self.machine.ranks < self.model.experts then
    failure.usage('%d slots on each of %d ranks; there are %d experts', slots, self.machine.ranks,
      self.model.experts)
  end
  self.topology = topologies.open { ranks = self.machine.ranks, slots = slots,
    node_size = math.min(self.machine.node_size, self.machine.ranks), experts = self.model.experts,
    speed = self.machine.speed, cost = expert_costs(self.model) }
  self.cluster = clusters.open(self.machine, self.topology)
  self.costs = costs.of(self.machine, self.model, o.tensor, o.elementwise)
  self.source = open_source(self)
  self.session = sessions.open { topology = self.topology, layers = self.model.layers,
    policy = o.policy, seed = o.seed, in_process = o.in_process, strict = o.strict, wait = true,
    deadline = 10 }
  open_arrays(self)
  self.micro_batches = 0
  self.balance = metrics.balance()
  return self
end

--- ---- one micro-batch --------------------------------------------------------------------------

local function scaled(array, count, scale)
  local out = ffi.new('double[?]', count)
  for i = 0, count - 1 do out[i] = tonumber(array[i]) * scale end
  return out
end

--- Mean seconds of a forward that the cutting into chunks costs.
function Simulation:chunk_extra(layout, chunk, share)
  local t, n, sum = self.topology, self.options.chunks, 0
  if n == 1 then return 0 end
  local whole = self.costs:experts(layout, self.slot_tokens, share, ffi.new('double[?]', t.ranks))
  for r = 0, t.ranks - 1 do sum = sum + n * chunk[r] - whole[r] end
  return sum / t.ranks
end

--- What a layer's tokens and parameters cost. share: of the counted tokens (tensor parallelism
-- cuts a micro-batch into smaller ones).
function Simulation:layer_load(layer, split, share)
  local t, layout = self.topology, self.session:layout(layer)
  split:slot_tokens(self.slot_tokens)
  lib.check(C.neap_split_traffic(split.ptr, self.port_tokens, self.uplink_tokens))
  local bytes = self.costs:token_bytes() * share
  local load = {
    ports = scaled(self.port_tokens, t.ranks, bytes),
    uplinks = scaled(self.uplink_tokens, t.nodes, bytes),
    experts = self.costs:experts(layout, self.slot_tokens, share / self.options.chunks,
      ffi.new('double[?]', t.ranks)),
  }
  load.experts_back = scaled(load.experts, t.ranks, 2)
  load.extra = self:chunk_extra(layout, load.experts, share)
  return load
end

--- Bytes on the links when the experts that stay on ranks, in slots / experts copies on as many
-- nodes, are summed and cut over their copies, or gathered.
function Simulation:copies()
  local t, copies = self.topology, self.topology.slots / self.topology.experts
  local bytes = self.expert_bytes[0] * t.slots / t.ranks * (copies - 1) / copies
  local weights = { ports = ffi.new('double[?]', t.ranks), uplinks = ffi.new('double[?]', t.nodes) }
  for r = 0, t.ranks - 1 do weights.ports[r] = bytes end
  for n = 0, t.nodes - 1 do
    weights.uplinks[n] = t.nodes > 1 and bytes * (t.first_rank[n + 1] - t.first_rank[n]) or 0
  end
  return weights
end

function Simulation:layer_weights(layer)
  if self.options.schedule == 'resident' then return self:copies() end
  local t = self.topology
  local weights = { ports = ffi.new('double[?]', t.ranks), uplinks = ffi.new('double[?]', t.nodes) }
  lib.check(C.neap_layout_traffic(self.session:layout(layer).ptr, self.expert_bytes,
    self.group == 'all' and C.NEAP_GROUP_ALL or self.group == 'node' and C.NEAP_GROUP_NODE
    or self.group, weights.ports, weights.uplinks))
  return weights
end

--- Plans, splits and prices the next micro-batch; scored: its balance counts.
function Simulation:next_micro_batch(scored, share)
  local s, step = self.session, self.micro_batches
  self.group = self.options.shard_group
  s:advance(step)
  local micro = { loads = {}, weights = {} }
  for layer = 0, self.model.layers - 1 do
    self.source(step, layer, self.counts)
    s:replan(step, layer, self.counts)
    local split = s:split(layer, self.counts, step)
    if scored then
      self.balance:add(split:balance())
      micro.loads[layer] = self:layer_load(layer, split, share)
      micro.weights[layer] = self:layer_weights(layer)
    end
    s:observe(step, layer, self.counts)
  end
  self.micro_batches = step + 1
  return micro
end

--- ---- one step ---------------------------------------------------------------------------------

--- Bytes on the links when gradients of dense parameters are summed and cut over all ranks, and
-- when the parameters are gathered: every rank and node takes in all but its own part.
local function dense_exchange(self, parameters)
  local o, t, out = self.options, self.topology, {}
  local function fill(kind, bytes)
    out[kind .. '_ports'] = ffi.new('double[?]', t.ranks)
    out[kind .. '_uplinks'] = ffi.new('double[?]', t.nodes)
    for r = 0, t.ranks - 1 do
      out[kind .. '_ports'][r] = bytes / o.tensor * (t.ranks - 1) / t.ranks
    end
    for n = 0, t.nodes - 1 do out[kind .. '_uplinks'][n] = bytes * (t.nodes - 1) / t.nodes end
  end
  fill('reduce', parameters * o.gradient_bytes)
  fill('gather', parameters * self.model.bytes)
  return out
end

local function add(to, from, count, times)
  for i = 0, count - 1 do to[i] = to[i] + times * from[i] end
end

local function dense(self)
  local layer, outer = self.costs:dense_parameters(), self.costs:outer_parameters()
  local out = {
    layer = dense_exchange(self, layer), outer = dense_exchange(self, outer),
    all = dense_exchange(self, layer * self.model.layers + outer),
  }
  if self.options.schedule == 'resident' then
    local copies = self:copies()
    add(out.all.gather_ports, copies.ports, self.topology.ranks, self.model.layers)
    add(out.all.gather_uplinks, copies.uplinks, self.topology.nodes, self.model.layers)
  end
  return out
end

local function description(self, micro, tokens)
  local o, m, cost = self.options, self.model, self.costs
  local d = {
    schedule = o.schedule, chunks = o.chunks, token_group = o.token_group,
    shard_group = o.shard_group, tensor = o.tensor, gradient_scale = o.gradient_bytes / m.bytes,
    accumulate = o.accumulate,
    layers = m.layers, recompute = m.recompute, micro = micro, dense = dense(self),
    head = cost:head(tokens), optimizer = cost:optimizer(self.topology.ranks),
    host = self.machine.host,
  }
  d.attention, d.attention_back = cost:attention(tokens)
  d.route, d.route_back = cost:route(tokens)
  d.finish, d.finish_back = cost:finish(tokens)
  if o.tensor > 1 then
    d.tensor_ports = ffi.new('double[?]', self.topology.ranks)
    for r = 0, self.topology.ranks - 1 do
      d.tensor_ports[r] = tokens * (o.tensor - 1) * cost:token_bytes()
    end
  end
  return d
end

--- Simulates the next step and leaves it in self.cluster. Returns cluster:report(), with the ideal
-- of whole exchanges, whatever the chunks.
function Simulation:step()
  while self.micro_batches < self.options.warm_up do self:next_micro_batch(false) end
  local parts, micro = self.options.parts, {}
  for _ = 1, self.model.micro_batches do
    local one = self:next_micro_batch(true, 1 / parts)
    for _ = 1, parts do micro[#micro + 1] = one end
  end
  program.build(self.cluster, description(self, micro, self.model.tokens / parts))
  local report = self.cluster:run():report()
  for _, one in ipairs(micro) do
    for layer = 0, self.model.layers - 1 do
      report.ideal = report.ideal - one.loads[layer].extra * (self.model.recompute and 4 or 3)
    end
  end
  return report
end

--- Figures of so many steps: step_ms, ideal_ms, utilization, exposed, share_of_ideal, and of the
-- step's time what ranks spend on average, in seconds: tokens (exchanges of tokens and waiting for
-- slow ranks), unshard and reduce (waiting for them), expert, other; imbalance and std_percent,
-- inter_node_share; plan_ms, faults.
function Simulation:run(steps)
  local sum = { seconds = 0, ideal = 0, busy = 0, tokens = 0, unshard = 0, reduce = 0, idle = 0,
    expert = 0 }
  for _ = 1, steps do
    local r = self:step()
    sum.seconds, sum.ideal = sum.seconds + r.seconds, sum.ideal + r.ideal
    sum.busy, sum.tokens = sum.busy + r.busy.compute, sum.tokens + r.waited.tokens
    sum.unshard, sum.reduce = sum.unshard + r.waited.unshard, sum.reduce + r.waited.reduce
    sum.idle = sum.idle + r.idle_end
    sum.expert = sum.expert + self:seconds_of 'expert'
  end
  local row, report = self.balance:summary(), self.session:report()
  row.imbalance, row.spread = row.imbalance.mean, row.imbalance
  row.step_ms, row.ideal_ms = sum.seconds / steps * 1e3, sum.ideal / steps * 1e3
  row.utilization = sum.busy / sum.seconds
  row.exposed = (sum.tokens + sum.unshard + sum.reduce + sum.idle) / sum.seconds
  row.share_of_ideal = sum.ideal / sum.seconds
  row.tokens, row.unshard = sum.tokens / steps, sum.unshard / steps
  row.reduce, row.expert = (sum.reduce + sum.idle) / steps, sum.expert / steps
  row.other = (sum.busy - sum.expert) / steps
  row.plan_ms, row.faults, row.steps = report.plan_ms, report.faults, steps
  return row
end

--- Mean seconds over ranks of all operations of a name in the last step.
function Simulation:seconds_of(name)
  local sum = 0
  for op = 0, #self.cluster.spans do
    if self.cluster.spans[op].name == name then sum = sum + (self.cluster:operation(op)) end
  end
  return sum
end

function Simulation:close()
  self.session:close()
  self.cluster:close()
end

return simulate

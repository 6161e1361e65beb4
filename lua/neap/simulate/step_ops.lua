-- SPDX-License-Identifier: Apache-2.0

--- Blocks, experts and shard stores of a simulated model: what the order of a step
-- (nn/layer_step.lua) calls, with operations of a cluster as their work.
--
-- A program (step_program.lua) issues them. Like the engine's thread it goes on until it has to
-- wait: an exchange starts when the work that was issued before it is done, and computation goes on
-- after the exchanges that were waited for.

local lib = require 'neap.base.lib'

local step_ops = {}

--- ---- transfers ---------------------------------------------------------------------------------

local Transfer = {}
Transfer.__index = Transfer

--- Computation to come needs it.
function Transfer:wait()
  if #self.ops > 0 then self.program:wait(self.ops[#self.ops]) end
  if self.after then self.after() end
end

--- Computation to come needs a part of it, from 1.
function Transfer:wait_part(part)
  self.program:wait(self.ops[self.late and 1 or part])
end

local Store = {}
Store.__index = Store

--- A layout is what its parameters take on the links (micro of step_program.build): the base that a
-- layer begins with, or what its plan on the counts has made of it, with changes.
function step_ops.store(program, layer)
  return setmetatable({ program = program, layer = layer }, Store)
end

function Store:unshard_start(weights, _, parts)
  local p, ops = self.program, {}
  if p.resident or not weights.moves then return nil end
  if p.unpack > 0 then
    p:compute('unshard', p.unpack, nil, { phase = false, layer = self.layer })
  end
  for i = 1, parts do
    ops[i] = p:exchange('unshard', 'unshard', { layer = self.layer, part = parts > 1 and i - 1,
      group = weights.group, peers = 'all', ports = weights.ports, uplinks = weights.uplinks,
      share = p.unshard_share / parts })
  end
  return setmetatable({ program = p, ops = ops, kind = 'ahead' }, Transfer)
end

function Store:unshard_changes_start(_, weights)
  local changes = weights.changes
  if not changes.moves then return nil end
  return setmetatable({ program = self.program, late = true, kind = 'late',
    ops = { self.program:exchange('late', 'late', { layer = self.layer, group = changes.group,
      peers = 'all', ports = changes.ports, uplinks = changes.uplinks,
      share = self.program.unshard_share }) } }, Transfer)
end

function Store:reduce_start(weights)
  local p = self.program
  if p.accumulate and p.micro < p.last_micro then return nil end
  local layer = self.layer
  local back = p.micro < p.last_micro and weights.accumulate or weights.back
  local ops = back.moves and { p:exchange('reduce', 'reduce', { layer = layer, group = back.group,
    peers = 'all', ports = back.ports, uplinks = back.uplinks, share = p.gradient_scale }) } or {}
  return setmetatable({ program = p, ops = ops,
    after = function() p:compute('reduce', p.sum, nil, { phase = false, layer = layer }) end,
  }, Transfer)
end

--- ---- blocks ------------------------------------------------------------------------------------

local Block = {}
Block.__index = Block

function step_ops.block(program, layer)
  return setmetatable({ program = program, layer = layer, norm2 = {}, router = {} }, Block)
end

--- With tensor parallelism tokens are gathered before the attention and scattered after it.
local function attention(program, seconds, exchanges)
  local function exchange()
    if program.tensor == 1 then return end
    for _ = 1, exchanges do
      program:wait(program:exchange('tensor', 'tokens',
        { group = program.tensor, ports = program.tensor_ports }))
    end
  end
  exchange()
  program:compute('attention', seconds)
  exchange()
end

function Block:forward_attention()
  local p, phase = self.program, self.program.phase
  p.layer = self.layer
  if phase == 'backward' then p.phase = 'forward' end
  attention(p, p.attention, 1)
  p.phase = phase
end

--- In a backward what a schedule computes again.
function Block:forward_shared()
  local p = self.program
  if not p.shared then return end
  p:compute('ffn', p.shared, nil, { phase = p.phase == 'backward' and 'forward' or nil })
end

function Block:backward_shared()
  local p = self.program
  if p.shared then p:compute('ffn', p.shared_back) end
end

function Block.release() end

function Block.output_buffer() end

function Block.finish() end

function Block.grad_buffer() end

function Block:backward()
  local p = self.program
  attention(p, p.attention_back, 2)
  if p.micro == p.last_micro and not p.dense_last then p:dense_reduce(p.dense.layer) end
end

--- Layers without experts, the first of a model (nn/dense_block.lua).
function step_ops.dense_layer(program)
  attention(program, program.attention, 1)
  program:compute('ffn', program.network)
end

function step_ops.dense_layer_back(program)
  local p = program
  p:compute('ffn', p.network_back)
  attention(p, p.attention_back, 2)
  if p.micro == p.last_micro and not p.dense_last then p:dense_reduce(p.dense.first) end
end

--- ---- experts -----------------------------------------------------------------------------------

local Experts = {}
Experts.__index = Experts

function step_ops.experts(program, layer)
  return setmetatable({ program = program, layer = layer }, Experts)
end

function Experts.load() end

function Experts.slot_tokens() end

--- The router, and the counts of all ranks, on the host.
function Experts:route()
  local p = self.program
  p:compute('route', p.route)
  p:wait(p:exchange('counts', 'tokens', { group = p.token_group }))
  if p.host > 0 then p:compute('host', p.host) end
end

--- Starts an exchange of a chunk of this layer's tokens, from 1. share: of their bytes, nil for
-- all.
local function send(self, name, chunk, share)
  local p, load = self.program, self.program.loads[self.layer]
  return p:exchange(name, 'tokens', { group = p.token_group, peers = p.token_peers,
    ports = load.ports[chunk], uplinks = load.uplinks[chunk], share = share,
    chunk = #load.ports > 1 and chunk - 1 })
end

local function send_all(self, name, share)
  local ops = {}
  for chunk = 1, #self.program.loads[self.layer].ports do
    ops[chunk] = send(self, name, chunk, share)
  end
  return ops
end

function Experts:dispatch()
  self.program:compute('dispatch', self.program.permute)
  self.sent = send_all(self, 'dispatch', self.program.dispatch_share)
end

--- So many seconds of experts on every rank, of a phase (default: the program's).
local function compute_experts(p, seconds, o)
  local factor = p.expert_factor[(o.phase or p.phase) == 'backward' and 'backward' or 'forward']
  p:compute('expert', 0, step_ops.scaled(seconds, p.cluster.topology.ranks, factor), o)
end

--- A chunk's experts, each when its parameters are there; before that, those of the first slots
-- that need not wait. key: of their seconds; phase: default the program's.
local function compute_chunk(self, arriving, chunk, key, phase)
  local p, load = self.program, self.program.loads[self.layer]
  for _, segment in ipairs(load.segments) do
    if segment.chunk == chunk then
      local o = { chunk = #load.ports > 1 and chunk - 1, phase = phase }
      local cut = arriving and key == 'seconds' and segment[arriving.kind]
      if cut then compute_experts(p, cut.kept, o) end
      if arriving then arriving:wait_part(segment.part) end
      compute_experts(p, cut and cut.rest or segment[key], o)
    end
  end
end

--- Experts of all chunks, each when its tokens are there; calls done(chunk). Hidden values that are
-- computed again need no tokens.
local function compute_chunks(self, arriving, done)
  local p = self.program
  for chunk = 1, #p.loads[self.layer].ports do
    if p.phase == 'backward' and p.schedule.recompute then
      compute_chunk(self, arriving, chunk, 'recompute', 'forward')
    end
    p:wait(self.sent[chunk])
    compute_chunk(self, arriving, chunk, 'seconds')
    done(chunk)
  end
end

function Experts:forward(_, _, arriving)
  local p, last = self.program, nil
  compute_chunks(self, arriving, function(chunk) last = send(self, 'combine', chunk) end)
  p:wait(last)
  p:compute('finish', p.phase == 'recompute' and 0 or p.finish)
end

function Experts:backward_dispatch()
  local p = self.program
  p.phase, p.layer = 'backward', self.layer
  p:compute('finish', p.finish_back)
  self.sent = send_all(self, 'dispatch')
end

--- Gradients of the experts' inputs cost as much as a forward, and so do those of their weights.
function Experts:backward(_, _, _, _, _, _, arriving)
  local p, last, hold = self.program, nil, self.program.schedule.hold_combine
  compute_chunks(self, arriving, function(chunk)
    if not hold then last = send(self, 'combine', chunk) end
  end)
  compute_experts(p, p.loads[self.layer].seconds, {})
  if hold then last = send_all(self, 'combine') end
  p:wait(hold and last[#last] or last)
  p:compute('route', p.route_back)
end

--- ---- slots -------------------------------------------------------------------------------------

--- The first slot of a part, as the engine cuts slots into parts, from 0.
local function slots_before(slots, parts, part)
  return math.floor((part * slots + parts - 1) / parts)
end

--- The slots of a rank cut where chunks of tokens or parts of parameters are: list of { chunk =,
-- part = (both from 1), from =, upto = }.
function step_ops.segments(slots, chunks, parts)
  local list = {}
  for chunk = 1, chunks do
    local last = slots_before(slots, chunks, chunk)
    for part = 1, parts do
      local from = math.max(slots_before(slots, chunks, chunk - 1),
        slots_before(slots, parts, part - 1))
      local upto = math.min(last, slots_before(slots, parts, part))
      if from < upto then list[#list + 1] = { chunk = chunk, part = part, from = from, upto = upto }
      end
    end
  end
  return list
end

--- share times an array.
function step_ops.scaled(array, count, share)
  if not array or not share or share == 1 then return array end
  local out = lib.ffi.new('double[?]', count)
  for i = 0, count - 1 do out[i] = array[i] * share end
  return out
end

return step_ops

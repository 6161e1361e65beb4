--- The worker process: runs a policy's hooks for a rank, until it is killed. Called as a file with
-- the two file descriptors of the shared memory (core/worker/spawner.c). Requests are int64 loads
-- [ranks][experts] followed by the layout in force, int32 [slots]; answers are layouts, and splits
-- in the bulk memory.

local lib = require 'neap.base.lib'
local runtime = require 'neap.policy.runtime'
local messages = require 'neap.policy.messages'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local BLOCK_SECONDS = 3600

local note, payload = ffi.new 'neap_policy_message', ffi.new 'const void *[1]'

local function answer(door, request, outcome, text, expert_of, slots)
  note.kind, note.about = outcome, request.known and messages.known or request.kind
  note.step, note.layer, note.seconds = request.step, request.layer, request.seconds
  text = (text or ''):sub(1, ffi.sizeof(note.text) - 1)
  ffi.copy(note.text, text)
  lib.check(C.neap_policy_server_answer(door, note, expert_of, expert_of and slots * 4 or 0))
end

local function open_topology(setup)
  local ranks = #setup.node_of
  return topologies.open {
    node_of = ffi.new('int32_t[?]', ranks, setup.node_of), ranks = ranks, experts = #setup.cost,
    slots = setup.slots_of, cost = setup.cost, speed = setup.speed,
  }
end

local Server = {}
Server.__index = Server

local function open_server(door, setup)
  local topology = open_topology(setup)
  local self = setmetatable({ door = door, queue = {}, first = 1, waiting = {} }, Server)
  C.neap_policy_server_begin(door, messages.load, 0, 0)
  self.host = runtime.open {
    file = setup.file, params = setup.params, split = setup.split, topology = topology,
    layers = setup.layers, seed = setup.seed,
    watch = function(hook, step, layer)
      C.neap_policy_server_begin(door, messages[hook], step, layer)
    end,
  }
  C.neap_policy_server_end(door)
  self.cells, self.slots = topology.ranks * topology.experts, topology.slots
  for layer = 0, setup.layers - 1 do
    self.waiting[layer] = { kind = messages.plan, layer = layer, step = 0, seconds = 0, new = false,
      expert_of = ffi.new('int32_t[?]', self.slots) }
  end
  return self
end

--- The newest load of a layer is what is planned on; an older one that waits is answered as late.
function Server:observe(load, expert_of)
  local request, known = self.waiting[note.layer], note.about == messages.known
  if not known then self.host:observe(note.layer, load) end
  local late, step = request.new, tonumber(note.step)
  if late then
    answer(self.door, request, runtime.LATE)
  else
    self.queue[#self.queue + 1] = request
  end
  request.step, request.seconds, request.new, request.known = step, 0, true, known
  ffi.copy(request.expert_of, expert_of, self.slots * 4)
end

function Server:split(load, expert_of)
  local request = { kind = messages.split, layer = note.layer, step = tonumber(note.step) }
  local start = C.neap_clock()
  local amounts = ffi.cast('int64_t *', C.neap_policy_server_bulk(self.door))
  local outcome, text = self.host:split(request.step, request.layer, load, expert_of, amounts)
  C.neap_policy_server_end(self.door)
  request.seconds = C.neap_clock() - start
  answer(self.door, request, outcome, text)
end

--- Plans the layer that has waited longest.
function Server:plan()
  local request = self.queue[self.first]
  self.first = self.first + 1
  if self.first > #self.queue then self.queue, self.first = {}, 1 end
  request.new = false
  local start = C.neap_clock()
  local outcome, result = self.host:plan(request.step, request.layer, request.expert_of,
    request.known)
  C.neap_policy_server_end(self.door)
  request.seconds = C.neap_clock() - start
  if outcome == runtime.PLANNED then
    answer(self.door, request, outcome, nil, result, self.slots)
  else
    answer(self.door, request, outcome, result)
  end
end

--- Takes all requests that are there before it plans: splits are urgent, and loads replace older
-- ones.
function Server:step()
  local idle = self.first > #self.queue
  lib.check(C.neap_policy_server_receive(self.door, idle and BLOCK_SECONDS or 0, note, payload))
  local load = ffi.cast('const int64_t *', payload[0])
  if note.kind == messages.plan then
    self:observe(load, ffi.cast('const int32_t *', load + self.cells))
  elseif note.kind == messages.split then
    self:split(load, ffi.cast('const int32_t *', load + self.cells))
  elseif not idle then
    self:plan()
  end
end

local function main(requests_fd, answers_fd)
  local out = ffi.new 'neap_policy_server *[1]'
  lib.check(C.neap_policy_server_open(tonumber(requests_fd), tonumber(answers_fd), out))
  local door, start = out[0], { kind = messages.load, layer = 0, step = 0, seconds = 0 }
  local setup = loadstring(ffi.string(C.neap_policy_server_setup(door)))()
  local ok, server = pcall(open_server, door, setup)
  if not ok then
    local code = type(server) == 'table' and server.code or 'POLICY'
    answer(door, start, runtime.FAULT, code .. ' ' .. (type(server) == 'table' and server.message
      or tostring(server)))
    return 1
  end
  local lines = server.host.lines
  answer(door, start, runtime.PLANNED, ('%s %d %d %d %s'):format(server.host.plans_on, lines.plan,
    lines.split, lines.when, server.host.rule or ''))
  while true do server:step() end
end

return main(...)

-- SPDX-License-Identifier: Apache-2.0

--- The worker process: runs a policy's hooks for a rank, until it is killed. Called as a file with
-- the two file descriptors of the shared memory (core/worker/spawner.c). Requests are int64 loads
-- [ranks][experts] followed by the active layout, int32 [slots]; answers are layouts, and splits
-- in the bulk memory. State that is saved and restored travels in pieces: a request to save names
-- the piece in about, and its answer's text has the bytes of all of them; a request to restore has
-- its bytes in text, and about says whether more follow.

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'
local precision = require 'neap.policy.precision'
local runtime = require 'neap.policy.runtime'
local messages = require 'neap.policy.messages'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local BLOCK_SECONDS = 3600

local message, payload = ffi.new 'neap_policy_message', ffi.new 'const void *[1]'

local function answer(server, request, outcome, text, expert_of, slots)
  message.kind, message.id, message.seconds = outcome, request.id, request.seconds
  text = (text or ''):sub(1, ffi.sizeof(message.text) - 1)
  ffi.copy(message.text, text)
  io.stdout:flush() -- what the hook has printed, if it ended no line
  lib.check(C.neap_policy_server_answer(server, message, expert_of, expert_of and slots * 4 or 0))
end

local function open_topology(setup)
  local ranks = #setup.node_of
  return topologies.open {
    node_of = ffi.new('int32_t[?]', ranks, setup.node_of), ranks = ranks, experts = #setup.cost,
    slots = setup.slots_of, cost = setup.cost, speed = setup.speed,
    homes = setup.homes,
  }
end

local Worker = {}
Worker.__index = Worker

local function open_worker(server, setup)
  local topology = open_topology(setup)
  local self = setmetatable({ server = server, queue = {}, first = 1, waiting = {} }, Worker)
  C.neap_policy_server_begin(server, messages.LOADING, 0, 0)
  self.runtime = runtime.open {
    file = setup.file, params = setup.params, split = setup.split, on = setup.on,
    topology = topology, fetch_work = setup.fetch_work, far_price = setup.far_price,
    layers = setup.layers, seed = setup.seed, travel = setup.travel,
    watch = function(hook, step, layer)
      C.neap_policy_server_begin(server, messages.of_hook[hook], step, layer)
    end,
  }
  C.neap_policy_server_end(server)
  self.cells, self.slots = topology.ranks * topology.experts, topology.slots
  self.bulk_bytes, self.pieces = topology.ranks * topology.slots * 8, {}
  for layer = 0, setup.layers - 1 do
    self.waiting[layer] = { layer = layer, step = 0, seconds = 0, new = false,
      expert_of = ffi.new('int32_t[?]', self.slots) }
  end
  return self
end

--- The newest load of a layer is what is planned on; an older one that waits is answered as late.
function Worker:request(load, expert_of)
  local request, known = self.waiting[message.layer], message.about == messages.KNOWN
  if not known then self.runtime:record(message.layer, load) end
  local late, step, id = request.new, tonumber(message.step), message.id
  if late then
    answer(self.server, request, runtime.LATE)
  else
    self.queue[#self.queue + 1] = request
  end
  request.step, request.seconds, request.new, request.known = step, 0, true, known
  request.id = id
  ffi.copy(request.expert_of, expert_of, self.slots * 4)
end

function Worker:split(load, expert_of)
  local request = { id = message.id, layer = message.layer, step = tonumber(message.step) }
  local start = C.neap_clock()
  local tokens = ffi.cast('int64_t *', C.neap_policy_server_bulk(self.server))
  local outcome, text = self.runtime:split(request.step, request.layer, load, expert_of, tokens)
  C.neap_policy_server_end(self.server)
  request.seconds = C.neap_clock() - start
  answer(self.server, request, outcome, text)
end

--- The request that has just come.
local function received()
  return { id = message.id, layer = message.layer, step = tonumber(message.step), seconds = 0 }
end

--- numbers: of precision.pack; the layout follows.
function Worker:precision(numbers)
  local request, before = received(), precision.parse(ffi.string(message.text))
  local outcome, result = self.runtime:precision(request.step, request.layer, before, numbers,
    ffi.cast('const int32_t *', numbers + precision.NUMBERS))
  C.neap_policy_server_end(self.server)
  answer(self.server, request, outcome,
    outcome == runtime.PLANNED and precision.text(result) or result)
end

function Worker:remember(load)
  local request = received()
  self.runtime:record(request.layer, load)
  answer(self.server, request, runtime.PLANNED)
end

--- Answers with a piece of a layer's state; the first one asks the policy.
function Worker:save()
  local request, piece, outcome = received(), message.about, runtime.PLANNED
  if piece == 0 then
    outcome, self.saved = self.runtime:save(request.step, request.layer)
    C.neap_policy_server_end(self.server)
  end
  if outcome ~= runtime.PLANNED or not self.saved then
    return answer(self.server, request, self.saved and outcome or runtime.FAULT,
      self.saved or 'the state was lost with an earlier worker')
  end
  local part = self.saved:sub(piece * self.bulk_bytes + 1, (piece + 1) * self.bulk_bytes)
  ffi.copy(C.neap_policy_server_bulk(self.server), part, #part)
  answer(self.server, request, outcome, tostring(#self.saved))
end

--- Takes a piece of a layer's state; with the last one the policy gets it.
function Worker:restore()
  local request, more = received(), message.about
  self.pieces[#self.pieces + 1] = ffi.string(payload[0], tonumber(ffi.string(message.text)))
  if more == 1 then return answer(self.server, request, runtime.PLANNED) end
  local text = table.concat(self.pieces)
  self.pieces = {}
  local outcome, why = self.runtime:restore(request.step, request.layer, text)
  C.neap_policy_server_end(self.server)
  answer(self.server, request, outcome, why)
end

--- Plans the layer that has waited longest.
function Worker:plan()
  local request = self.queue[self.first]
  self.first = self.first + 1
  if self.first > #self.queue then self.queue, self.first = {}, 1 end
  request.new = false
  local start = C.neap_clock()
  local outcome, result = self.runtime:plan(request.step, request.layer, request.expert_of,
    request.known)
  C.neap_policy_server_end(self.server)
  request.seconds = C.neap_clock() - start
  if outcome == runtime.PLANNED then
    local fields = self.runtime:has_fields(request.layer) and messages.FIELDS or nil
    answer(self.server, request, outcome, fields, result, self.slots)
  else
    answer(self.server, request, outcome, result)
  end
end

--- Takes all requests that are there before it plans: splits are urgent, and loads replace older
-- ones.
function Worker:step()
  local idle = self.first > #self.queue
  local seconds = idle and BLOCK_SECONDS or 0
  lib.check(C.neap_policy_server_receive(self.server, seconds, message, payload))
  local load = ffi.cast('const int64_t *', payload[0])
  if message.kind == messages.PLAN then
    self:request(load, ffi.cast('const int32_t *', load + self.cells))
  elseif message.kind == messages.SPLIT then
    self:split(load, ffi.cast('const int32_t *', load + self.cells))
  elseif message.kind == messages.PRECISION then
    self:precision(ffi.cast('const double *', payload[0]))
  elseif message.kind == messages.HISTORY then
    self:remember(load)
  elseif message.kind == messages.SAVE then
    self:save()
  elseif message.kind == messages.RESTORE then
    self:restore()
  elseif not idle then
    self:plan()
  end
end

local function main(requests_fd, answers_fd)
  local out = ffi.new 'neap_policy_server *[1]'
  lib.check(C.neap_policy_server_open(tonumber(requests_fd), tonumber(answers_fd), out))
  local server, start = out[0], { id = 0, seconds = 0 }
  local setup = assert(loadstring(ffi.string(C.neap_policy_server_setup(server))))()
  local ok, worker = pcall(open_worker, server, setup)
  if not ok then
    answer(server, start, runtime.FAULT, ('%s %s'):format(errors.code(worker) or 'POLICY',
      errors.describe(worker)))
    return 1
  end
  local loaded, lines = worker.runtime, worker.runtime.lines
  answer(server, start, runtime.PLANNED, ('%s %d %d %d %d %d %d %d %s %s'):format(
    loaded.plans_on, loaded.keep, lines.plan, lines.split, lines.when, lines.precision, lines.save,
    lines.restore,
    loaded.rule or '-', loaded.name))
  while true do worker:step() end
end

return main(...)

-- SPDX-License-Identifier: Apache-2.0

--- One rank of a run: a thread of `neap run -n N`, or a process under mpirun.
-- Called as a file with (rank, ranks, world or nil, ORDER); ORDER is the JSON text that cli/run.lua
-- makes. Returns the exit status of the rank.
--
-- The recipe's run gets a job:
--   comm, rank, ranks     the communicator of all ranks (closed after run), and the place in it
--   node_size             ranks per node (of the largest node where they differ)
--   processors            that all ranks together may run on
--   node_of               int32_t[ranks], node of every rank, as neap_topology_open takes it
--   params                typed parameters of the recipe
--   device                'cpu' or 'cuda'
--   sim                   with --device=sim: machine (a cluster's description with as many ranks),
--                         cluster and model (names; the second perhaps nil); else nil
--   deadline              seconds that a policy's hook may run; nil for the session's default
--   strict, in_process    whether a policy's fault stops the run; whether policies run in the rank
--   trusted               whether policies may do what the user may (--trust-policies)
--   timeline              records steps (profile/step_recorder.lua); nil: nobody asked for it
--   balanced_ms           with --balanced: what a force-balanced step takes
--   json                  results are wanted as JSON
--   job:print(text)       writes a line to stdout, on rank 0 only
--   job:say(text)         writes a line to stderr, on rank 0 only
--   job:remark(text)      tells on stderr what is worth knowing besides the results, once
--   job:judge(row)        of a training's row: what its policy was worth decides the exit status
--   job:report(result)    prints result.text, or with --json result.json, { rows = list, … }, in
--                         the shape of all commands (docs/json.md), on rank 0 only
--   job:progress(n, name) progress line of n steps on stderr, on rank 0 only
--   recipe                name, file and sha256 of the recipe
--   checkpoints           with --checkpoint: what trainings save to (train/checkpoints.lua); else
-- nil
--   recorded              whether the store is told of the run; the same on all ranks
--   job:record(row, text) rank 0 of a run that is recorded: begins the result of a policy in the
--                         store (recorder.lua); row: policy, seed, and perhaps trace; text: what
--                         is trained on, or nil. On other ranks, and unrecorded: nil

local balanced_twin = require 'neap.train.balanced_twin'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local recipe_pricing = require 'neap.simulate.recipe_pricing'
local lib = require 'neap.base.lib'
local memory_estimate = require 'neap.train.memory_estimate'
local errors = require 'neap.base.errors'
local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'
local checkpoints = require 'neap.train.checkpoints'
local params = require 'neap.base.params'
local provenance = require 'neap.runs.provenance'
local launch = require 'neap.train.launch'
local progress = require 'neap.base.progress'
local recipe = require 'neap.train.recipe'
local step_recorder = require 'neap.profile.step_recorder'
local store = require 'neap.runs.store'

local ffi = lib.ffi

-- Seconds that a rank other than 0 waits before it tells its error under mpirun: if rank 0 has the
-- same one, the job ends first and the error is told once.
local COURTESY = 0.5

local SET_WORDS = 64 -- of neap_processor_set

-- Errors that all ranks have alike.
local EVERYWHERE = { USAGE = true, ABSENT = true }

local Job = {}
Job.__index = Job

--- Writes a line to stdout, on rank 0 only.
-- : string
function Job:print(text)
  if self.rank == 0 then
    io.stdout:write(text, '\n')
  end
end

--- Writes a line to stderr, on rank 0 only.
-- : string
function Job:say(text)
  if self.rank == 0 then
    io.stderr:write(text, '\n')
  end
end

--- A recipe's results in the shape of all commands; what has no rows is one.
local function document_of(results)
  local fields = results.rows and results or { rows = results[1] and results or { results } }
  return json.results('run', fields, metrics.keys())
end

--- A note on stderr, told once in a run; nothing for nil.
-- : string?
function Job:remark(text)
  if text and self.rank == 0 and text ~= self.remarked then errors.note(text) end
  self.remarked = text or self.remarked
end

--- Rank 0 tells of a policy that was never in force, which gives the run its exit status.
-- : table
function Job:judge(row)
  if self.rank == 0 then self.status = math.max(self.status, names.status { row }) end
end

--- Prints a result, as text or with --json as JSON, on rank 0 only.
-- : table
function Job:report(result)
  self:print(self.json and document_of(result.json) or result.text)
end

--- A progress line of so many steps on stderr, on rank 0 only.
-- : integer, string -> Progress
function Job:progress(total, label)
  return progress.open(total, label, self.rank ~= 0)
end

--- Begins the result of a policy in the store, on rank 0 of a run that is recorded; elsewhere nil.
-- : table, Schedule? -> Recorder?
function Job:record(row, text)
  if not self.store then return nil end
  if text then self.store:corpora(self.order.store.run, text) end
  row.context = self.order.store.context
  return self.store:result(self.order.store.run, row)
end

--- Hash of this host's name.
local function host_hash()
  local file = io.open '/proc/sys/kernel/hostname'
  local name = file and file:read '*l' or ''
  if file then file:close() end
  local hash = 0
  for i = 1, #name do
    hash = (hash * 257 + name:byte(i)) % 2 ^ 45
  end
  return hash
end

--- Processors that the ranks may run on together: under mpirun each is often bound to its own.
-- Collective.
local function all_processors(world, ranks)
  local words = 1 + SET_WORDS
  local mine, all = ffi.new('int64_t[?]', words), ffi.new('int64_t[?]', ranks * words)
  local counts = ffi.new('int64_t[?]', ranks)
  for r = 0, ranks - 1 do counts[r] = words end
  mine[0] = host_hash()
  lib.C.neap_processor_set(ffi.cast('uint64_t *', mine + 1))
  world:all_gather(mine, all, counts, 'i64')
  local seen, count = {}, 0
  for r = 0, ranks - 1 do
    for bit_of = 0, 64 * SET_WORDS - 1 do
      local word = all[r * words + 1 + math.floor(bit_of / 64)]
      if bit.band(bit.rshift(word, bit_of % 64), 1) == 1 then
        local name = tostring(all[r * words]) .. ':' .. bit_of
        count, seen[name] = count + (seen[name] and 0 or 1), true
      end
    end
  end
  return count
end

--- Nodes by host: node_of[ranks] and how many nodes. Collective.
local function nodes_by_host(world, ranks)
  local mine, all = ffi.new('int64_t[1]', host_hash()), ffi.new('int64_t[?]', ranks)
  local counts = ffi.new('int64_t[?]', ranks)
  for r = 0, ranks - 1 do counts[r] = 1 end
  world:all_gather(mine, all, counts, 'i64')
  local node_of, node, seen = ffi.new('int32_t[?]', ranks), 0, { [tonumber(all[0])] = true }
  for r = 1, ranks - 1 do
    if all[r] ~= all[r - 1] then
      if seen[tonumber(all[r])] then
        errors.usage('rank %d is on the host of an earlier node: ranks of a host must follow each '
          .. 'other (mpirun --map-by slot)', r)
      end
      seen[tonumber(all[r])] = true
      node = node + 1
    end
    node_of[r] = node
  end
  return node_of, node + 1
end

local function nodes_by_size(size, ranks)
  local node_of = ffi.new('int32_t[?]', ranks)
  for r = 0, ranks - 1 do node_of[r] = math.floor(r / size) end
  return node_of
end

local function largest_node(node_of, ranks)
  local count, largest = {}, 0
  for r = 0, ranks - 1 do
    local node = node_of[r]
    count[node] = (count[node] or 0) + 1
    largest = math.max(largest, count[node])
  end
  return largest
end

--- The nodes: --node-size, else the hosts where there are several, else the recipe's node size,
-- else one node.
local function find_nodes(world, ranks, asked, default)
  if not asked then
    local node_of, nodes = nodes_by_host(world, ranks)
    if nodes > 1 then return node_of end
  end
  return nodes_by_size(asked or default or ranks, ranks)
end

local function run(channel, rank, ranks, order, runs)
  local script = recipe.load(order.recipe)
  local node_of = find_nodes(channel, ranks, order.node_size, script.node_size)
  local job = setmetatable({
    status = 0, comm = channel, rank = rank, ranks = ranks,
    node_of = node_of, node_size = largest_node(node_of, ranks),
    params = params.values(script.params, order.params, order.device),
    device = order.device, strict = order.strict, in_process = order.in_process, json = order.json,
    processors = all_processors(channel, ranks),
    trusted = order.trusted, deadline = order.deadline, recorded = order.store ~= nil,
    store = runs, order = order, recipe = { name = script.name, file = order.recipe,
      sha256 = provenance.source_hash(order.recipe) },
    sim = order.sim and { cluster = order.sim.cluster, model = order.sim.model,
      machine = recipe_pricing.machine(order.sim.cluster, ranks) },
  }, Job)
  recipe.forbid_exit()
  job.balanced_ms = order.balanced and balanced_twin.step_ms(script, job, order.params) or nil
  job.timeline = order.timeline and step_recorder.open(order.timeline, order.timeline_step)
  job.checkpoints = order.checkpoint and checkpoints.open(job, order.checkpoint) or nil
  script:run(job)
  if job.checkpoints then job.checkpoints:close() end
  if job.timeline then job.timeline:close(job) end
  local status = ffi.new('int32_t[1]', job.status)
  channel:broadcast(status, 4)
  return status[0]
end

--- An error about memory with what the estimate says of it, if the recipe is a training.
local function advise(err, ranks, order)
  if type(err) ~= 'table' or err.code ~= 'MEMORY' then return err end
  local ok, advice = pcall(function()
    local script = recipe.load(order.recipe)
    return memory_estimate.knows(script.params) and memory_estimate.advice(memory_estimate.here(
      params.values(script.params, order.params, order.device), ranks,
      order.node_size or script.node_size, order.device))
  end)
  if ok and advice then err.message = ('%s; %s'):format(err.message, advice) end
  return err
end

--- What the store is to be told of this run, for all ranks as rank 0 knows it: { path, run,
-- context, started }, or nil. Collective.
local function share(channel, rank, noted)
  local text = rank == 0 and noted and json.encode(noted) or ''
  local bytes = ffi.new('int64_t[1]', #text)
  channel:broadcast(bytes, 8)
  if bytes[0] == 0 then return nil end
  local buffer = ffi.new('char[?]', bytes[0])
  ffi.copy(buffer, text, #text) -- an initial value would bring a NUL that has no room
  channel:broadcast(buffer, tonumber(bytes[0]))
  return json.decode(ffi.string(buffer, bytes[0]))
end

--- Tells the store that the run has failed, as whichever rank knows it first. Where a rank cannot
-- reach rank 0's store, nobody does: the run is listed as interrupted.
local function note_failure(noted, status, message)
  pcall(function() -- the store may be what has failed
    local runs = store.open(noted.path)
    local row = runs:runs("id = ? AND state = 'running' AND abs(started - ?) < 1e-3", noted.run,
      noted.started)[1]
    if row then runs:finish(row.id, status, message) end
    runs:close()
  end)
end

--- An operation did not end: one rank of all tells where everybody is.
local function tell_hang(world, verdict, tell, noted)
  if tell then
    io.stderr:write('neap: ', verdict, '\n')
    if noted then note_failure(noted, errors.HUNG, verdict) end
  elseif not world then
    launcher.sleep(2 * COURTESY)
  end
  return errors.HUNG
end

local function tell_error(rank, err, noted)
  local status = errors.status(err)
  if not launcher.first_failure() then return status end
  local everywhere = EVERYWHERE[err.code] or err.everywhere
  local prefix = everywhere and '' or ('rank %d: '):format(rank)
  errors.tell(err, prefix)
  if noted then note_failure(noted, status, prefix .. errors.text(err)) end
  local path = not everywhere and lib.C.neap_flight_write(prefix .. errors.text(err))
  if path and path ~= nil then
    io.stderr:write('neap: flight recorder: ', ffi.string(path), '\n')
  end
  return status
end

local function fail(rank, world, err, noted)
  if not world and rank > 0 then
    launcher.sleep(COURTESY)
  end
  local tell = ffi.new 'int32_t[1]'
  local verdict = lib.C.neap_watch_verdict(tell)
  local status
  if verdict ~= nil then
    status = tell_hang(world, ffi.string(verdict), tell[0] == 1, noted)
  else
    status = tell_error(rank, err, noted)
  end
  launch.abandon(world, rank, status)
  return status
end

-- The text of an error that says that Lua has no memory left; then nothing may be made any more.
local OUT_OF_MEMORY = 'not enough memory'

--- Ends a rank that has no memory left, and lets the store know if that can be.
local function fail_memory(world, noted)
  if launcher.first_failure() then launcher.tell_memory() end
  if noted then pcall(note_failure, noted, 1, OUT_OF_MEMORY) end
  if not world then launcher.leave(1) end
  lib.C.neap_world_abort(world, OUT_OF_MEMORY)
  return 1
end

local function main(rank, ranks, world, text)
  world = world and ffi.cast('neap_world *', world)
  local order, channel, runs, ended = json.decode(text), nil, nil, nil
  local ok, err = xpcall(function()
    channel = launch.open(world, rank, order.device)
    if not world then order.store = share(channel, rank, order.store) end
    runs = rank == 0 and order.store and store.open(order.store.path)
    ended = run(channel, rank, ranks, order, runs)
  end, errors.handler)
  if err == OUT_OF_MEMORY then return fail_memory(world, order.store) end
  if not ok then err = advise(err, ranks, order) end
  if runs then
    if ok then runs:finish(order.store.run, ended, nil, true) else runs:flush() end
    runs:close()
  end
  local status = ok and ended or fail(rank, world, err, order.store)
  if channel then channel:close() end
  if not (ok and world) then return status end
  launcher.verdict(status) -- others may still be at the last operation: this rank has not failed
  return 0
end

return main(...)

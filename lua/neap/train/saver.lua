-- SPDX-License-Identifier: Apache-2.0

--- Saves a training, and brings it back.
--
-- A checkpoint is written in three parts, beside the training: each rank's file; when all are on
-- the disk, the manifest; then older checkpoints go. Between steps the ranks agree on what comes
-- next; a checkpoint that is due while one is being written waits for it. What fails is told, and
-- tried again when the next one is due; the older ones stay.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local agreement = require 'neap.train.agreement'
local checkpoint = require 'neap.engine.checkpoint'
local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local json = require 'neap.base.json'
local provenance = require 'neap.runs.provenance'
local params = require 'neap.base.params'
local resume = require 'neap.train.resume'
local state = require 'neap.train.training_state'
local subprocess = require 'neap.engine.subprocess'
local tensor = require 'neap.engine.tensor'

local ffi, C = lib.ffi, lib.C

local saver = {}

local PAUSE = 0.01 -- seconds between looks at what is being written

local Saver = {}
Saver.__index = Saver

--- owner: the run's checkpoints; number: of the training in the recipe, from 1. Collective.
function saver.open(owner, trainer, number)
  local file = provenance.policy_file(trainer.policy)
  local self = setmetatable({
    job = owner.job, root = owner.root, owner = owner, writer = owner.writer, trainer = trainer,
    training = number, begun = 0,
    policy = { text = trainer.policy, name = state.policy_name(trainer.policy),
      sha256 = file and provenance.source_hash(file) },
    cost = { count = 0, seconds = 0, bytes = 0 },
  }, Saver)
  self.manifest = owner.resume and resume.newest(self) or nil
  if self.manifest then self.begun, self.saved = trainer.done, trainer.done end
  self.list = resume.segments(self, self.manifest)
  self.last = C.neap_clock()
  return self
end

--- Once the trainer has its recorder: it remembers the rows of all steps, those before too.
function Saver:remember_rows()
  self.trainer.recorder:remember()
  if self.manifest then state.restore_rows(self.manifest, self.trainer) end
end

--- Of a run that was resumed: where each part began (step), and under what (ranks, policy, device,
-- transport, engine; policy_state: 'restored' or 'began anew'); nil otherwise.
function Saver:segments()
  return #self.list > 1 and self.list or nil
end

--- ---- writing -----------------------------------------------------------------------------------

local function plain_parameters(trainer)
  local list = setmetatable({}, { __jsontype = 'object' })
  for _, name in ipairs(lib.sorted_keys(trainer.params)) do
    list[name] = params.show(trainer.params[name])
  end
  return list
end

local function list_of(array, count)
  local list = {}
  for i = 0, count - 1 do list[i + 1] = array[i] end
  return list
end

--- Rank 0: the manifest without the files.
local function describe(self, fields, kept)
  local trainer, job = self.trainer, self.job
  fields.neap_checkpoint, fields.engine = 1, lib.version
  fields.time, fields.training, fields.step = math.floor(C.neap_time()), self.training, trainer.done
  fields.steps, fields.ranks = trainer.params.steps, job.ranks
  fields.node_of, fields.slots = list_of(job.node_of, job.ranks), trainer.topology.slots
  fields.device, fields.transport = job.device, job.comm:transport()
  fields.dtype, fields.masters = trainer.params.dtype, tensor.acc_of(trainer.params.dtype)
  fields.exact, fields.recipe = trainer.params.exact, job.recipe
  fields.policy = { kept = kept }
  for name, value in pairs(self.policy) do fields.policy[name] = value end
  fields.text = { description = trainer.text:describe() }
  fields.parameters, fields.segments = plain_parameters(trainer), self.list
  return fields
end

--- agreement.try, and try_on_root, of a part of the checkpoint; what fails is told. Collective.
local function try(self, f, ...)
  local ok, why = agreement.try(self.job, f, ...)
  if not ok then self.job:say(('neap: checkpoint of step %d: %s'):format(self.begun, why)) end
  return ok
end

local function try_on_root(self, f, ...)
  return try(self, self.job.rank == 0 and f or function() end, ...)
end

--- Where the checkpoint that is being written lies.
local function path_of(self)
  return folder.step_path(self.root, self.training, self.begun)
end

--- Starts to write a checkpoint of the steps so far. Collective.
local function begin(self)
  local began, trainer = C.neap_clock(), self.trainer
  local spent = trainer:spent()
  self.last = began
  self.begun = trainer.done
  local path = path_of(self)
  local made = try_on_root(self, function()
    folder.disown(path)
    checkpoint.remove(path)
    checkpoint.make_folder(path)
  end)
  self.phase = made and 'writing' or nil
  self.broken = not made
  if not made then return end
  self.begun_well = try(self, function()
    self.writer:begin(('%s/%s'):format(path, folder.rank_name(self.job.rank)))
    local fields, kept = state.add(self.writer, trainer, spent)
    if fields then self.document = describe(self, fields, kept) end
    self.writer:start()
    self.started = true
  end)
  self.cost.count = self.cost.count + 1
  self.cost.seconds = self.cost.seconds + C.neap_clock() - began
end

--- Ends a try that has failed: nothing of it stays. Collective.
local function abandon(self)
  try_on_root(self, function()
    folder.disown(path_of(self))
    checkpoint.remove(path_of(self))
  end)
  self.phase, self.broken = nil, true
end

--- Bytes and seals of all ranks' files, as the manifest has them. Collective.
local function gather_files(self, file)
  local job = self.job
  local mine = ffi.new('int64_t[2]', file.bytes, file.seal)
  local all = ffi.new('int64_t[?]', 2 * job.ranks)
  local counts, files = {}, {}
  for rank = 1, job.ranks do counts[rank] = 2 end
  job.comm:all_gather(mine, all, counts, 'i64')
  for rank = 0, job.ranks - 1 do
    files[rank + 1] = { name = folder.rank_name(rank), bytes = tonumber(all[2 * rank]),
      seal = tonumber(all[2 * rank + 1]) }
    self.cost.bytes = self.cost.bytes + files[rank + 1].bytes
  end
  return files
end

--- All ranks have written their files, or failed: rank 0 goes on with the manifest. Collective.
local function end_writing(self)
  local file
  local written = try(self, function()
    if self.started then
      self.started = false
      file = self.writer:wait()
    end
  end)
  if not (written and self.begun_well) then return abandon(self) end
  local files = gather_files(self, file)
  local committed = try_on_root(self, function()
    for _, entry in ipairs(files) do
      local path = ('%s/%s'):format(path_of(self), entry.name)
      if not folder.exists(path) then
        errors.plain('%s cannot be seen from rank 0: is the folder on a file system that all hosts '
          .. 'share?', path)
      end
    end
    self.document.files = files
    self.writer:commit(folder.manifest_path(path_of(self)), json.encode(self.document))
  end)
  if not committed then return abandon(self) end
  self.phase = 'committing'
end

--- Rank 0: the checkpoints that nobody needs any more: all but the newest whole ones.
local function superfluous(self)
  local list, whole = {}, 0
  for _, entry in ipairs(folder.steps(self.root, self.training)) do
    whole = whole + (entry.whole and 1 or 0)
    if whole > self.owner.keep or (not entry.whole and entry.step ~= self.begun) then
      list[#list + 1] = entry.path
    end
  end
  return list
end

--- Rank 0: starts to remove one; whether there was one.
local function remove_next(self)
  local path = table.remove(self.removing)
  if path then
    folder.disown(path)
    self.writer:remove(path)
  end
  return path ~= nil
end

local function end_committing(self)
  local fine = try_on_root(self, self.writer.wait, self.writer)
  if not fine then return abandon(self) end
  self.saved, self.broken = self.begun, false
  self.removing = self.job.rank == 0 and superfluous(self) or {}
  self.phase = agreement.from_root(self.job, #self.removing) > 0 and 'removing' or nil
  if self.phase and self.job.rank == 0 then remove_next(self) end
end

local function end_removing(self)
  local more = 0
  if self.job.rank == 0 then
    local ok, err = pcall(self.writer.wait, self.writer)
    if not ok then io.stderr:write('neap: an old checkpoint: ', errors.text(err), '\n') end
    more = remove_next(self) and 1 or 0
  end
  if agreement.from_root(self.job, more) == 0 then self.phase = nil end
end

local NEXT = { writing = end_writing, committing = end_committing, removing = end_removing }

--- Whether a checkpoint is due: by steps, which all ranks know; or by rank 0's clock.
local function is_due(self)
  local every, done = self.owner.steps, self.trainer.done
  if done >= self.trainer.params.steps then return false end -- finish writes that one
  if every then return math.floor(done / every) > math.floor(self.begun / every) end
  return self.job.rank == 0 and C.neap_clock() - self.last >= self.owner.seconds
end

--- Whether any rank's writer is at work. Collective.
local function is_busy(self)
  return agreement.most(self.job, self.writer:busy() and 1 or 0) == 1
end

--- Ends what is being written, however long that takes: nobody waits for others meanwhile as for a
-- rank that hangs. Collective.
local function drain(self)
  while self.phase do
    while is_busy(self) do launcher.sleep(PAUSE) end
    NEXT[self.phase](self)
  end
end

--- Writes a checkpoint of the steps so far, unless it is there, and waits for it. Collective.
function Saver:finish()
  drain(self)
  if self.saved ~= self.trainer.done then
    begin(self)
    drain(self)
  end
  self.owner.failed = self.broken and self.training or nil
end

--- Begins a checkpoint now, unless one is being written. Collective.
function Saver:begin()
  if not self.phase then begin(self) end
end

--- Collective, after a step: looks after the checkpoint that is being written, begins one that is
-- due. After SIGINT or SIGTERM writes a last one and raises INTERRUPTED.
function Saver:step_done()
  local stop, due, busy = agreement.most(self.job, subprocess.interrupts(), is_due(self) and 1 or 0,
    self.writer:busy() and 1 or 0)
  if stop > 0 then return self:stop() end
  if self.phase and busy == 0 then NEXT[self.phase](self) end
  if due == 1 and not self.phase then begin(self) end
end

function Saver:stop()
  self:finish()
  local where = self.broken and ', whose checkpoint could not be written'
    or ('; its checkpoint is in %s: go on with --resume'):format(self.root)
  agreement.raise('INTERRUPTED', 'interrupted after step %d%s', self.trainer.done, where)
end

--- Collective.
function Saver:close()
  drain(self)
end

return saver

-- SPDX-License-Identifier: Apache-2.0

--- The checkpoints of a run: neap run --checkpoint makes one of these for its job, and every
-- training of the recipe gets a saver of it (saver.lua).

local agreement = require 'neap.train.agreement'
local checkpoint = require 'neap.engine.checkpoint'
local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local saver = require 'neap.train.saver'
local subprocess = require 'neap.engine.subprocess'

local checkpoints = {}

local Checkpoints = {}
Checkpoints.__index = Checkpoints

local function open_folder(self)
  checkpoint.make_folder(self.root)
  local ok, lock = pcall(checkpoint.lock, self.root .. '/lock')
  if not ok and lock.code == 'BUSY' then
    errors.usage('%s: another run is writing its checkpoints there', self.root)
  end
  if not ok then error(lock, 0) end
  self.lock = lock
  if not self.resume and #folder.trainings(self.root) > 0 then
    errors.usage('%s: has checkpoints of another run; go on from them with --resume, or name '
      .. 'another folder', self.root)
  end
end

--- options: folder, steps or seconds between checkpoints, keep (how many stay), resume. Collective.
-- From now on SIGINT and SIGTERM wait for the end of a step.
function checkpoints.open(job, options)
  local self = setmetatable({
    job = job, root = options.folder, steps = options.steps, seconds = options.seconds,
    keep = options.keep, resume = options.resume, opened = 0,
  }, Checkpoints)
  local opened, why = agreement.try_on_root(job, open_folder, self)
  if not opened then agreement.raise('FAILED', why) end
  self.writer = checkpoint.writer()
  subprocess.catch_interrupts()
  return self
end

--- Collective, when the recipe has run. Raises an error if a training's last checkpoint could not
-- be written, once all ranks, rank 0 with its results, have come to their end.
function Checkpoints:close()
  self.job.comm:barrier()
  self.writer:close()
  if self.lock then self.lock:close() end
  if self.opened == 0 then
    self.job:say 'neap: the recipe has no training: there was nothing to write a checkpoint of'
  end
  if self.failed then
    agreement.raise('FAILED', 'the last checkpoint of training %d could not be written',
      self.failed)
  end
end

--- The saver of the recipe's next training, whose trainer has just been opened; it goes on from its
-- checkpoint if the run resumes. Collective.
function Checkpoints:training(trainer)
  self.opened = self.opened + 1
  return saver.open(self, trainer, self.opened)
end

return checkpoints

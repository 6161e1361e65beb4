-- SPDX-License-Identifier: Apache-2.0

--- Going on from a checkpoint: which one, and what is other than it was.

local lib = require 'neap.base.lib'
local agreement = require 'neap.train.agreement'
local folder = require 'neap.train.checkpoint_folder'
local params = require 'neap.base.params'
local model_state = require 'neap.train.model_state'
local state = require 'neap.train.training_state'

local C = lib.C

local resume = {}

--- Loads the checkpoint of a step: the manifest, or nil if it is damaged. Collective.
local function load(self, step)
  local trainer, manifest = self.trainer, nil
  local path = folder.step_path(self.root, self.training, step)
  local fine, why = agreement.try(self.job, function()
    manifest = folder.manifest(path)
    model_state.load(manifest, trainer)
  end)
  if fine then return manifest end
  self.job:say(('neap: checkpoint of step %d: %s'):format(step, why))
end

--- What is other than when the checkpoint was written, in words: a list.
local function changes(self, manifest)
  local list, p = {}, self.trainer.params
  local function add(what, before, now)
    if before ~= now then
      list[#list + 1] = ('%s %s instead of %s'):format(what, tostring(now), tostring(before))
    end
  end
  local job = self.job
  add('ranks', manifest.ranks, job.ranks)
  add('device', manifest.device, job.device)
  add('policy', manifest.policy.text, self.trainer.policy)
  add('text', manifest.text.description, self.trainer.text:describe())
  for _, name in ipairs(lib.sorted_keys(manifest.parameters)) do
    local now = rawget(p, name)
    if name ~= 'policy' and name ~= 'policies' and name ~= 'text' then
      add(name, manifest.parameters[name], now ~= nil and params.show(now) or 'absent')
    end
  end
  if manifest.recipe.sha256 ~= job.recipe.sha256 then list[#list + 1] = 'the recipe has changed' end
  local policy = self.policy
  if manifest.policy.name == policy.name and manifest.policy.sha256 ~= policy.sha256 then
    list[#list + 1] = 'the policy has changed'
  end
  return list
end

--- What becomes of what the policy kept in its fields.
local function fate_of_policy(self, manifest)
  local kept = manifest.policy.kept
  if kept == 'none' then return nil end
  if manifest.policy.name ~= self.policy.name then return nil end
  if kept == 'saved' then return 'restored' end
  return 'began anew'
end

local function tell_resume(self, manifest)
  local parts = changes(self, manifest)
  local fate = fate_of_policy(self, manifest)
  if fate == 'began anew' then
    local why = manifest.policy.kept == 'failed' and 'hook save of policy %s failed: there'
      or 'policy %s has no hook save:'
    parts[#parts + 1] = (why .. ' what it kept in its fields begins anew'):format(self.policy.name)
  end
  self.job:say(('neap: %s: goes on after step %d%s'):format(self.trainer.label, manifest.step,
    #parts > 0 and '; ' .. table.concat(parts, ', ') or ''))
end

--- Brings a saver's trainer to where the newest checkpoint that is whole was. Returns its manifest,
-- or nil if there is none yet. Raises FORMAT if there are some, and none can be read. Collective.
function resume.newest(self)
  local found, tried = self.job.rank == 0 and folder.steps(self.root, self.training) or {}, 0
  for i = 1, agreement.from_root(self.job, #found) do
    local entry = found[i]
    if agreement.from_root(self.job, entry and entry.whole and 1 or 0) == 1 then
      local step = agreement.from_root(self.job, entry and entry.step)
      local manifest = load(self, step)
      if manifest then
        state.resume(manifest, self.trainer)
        tell_resume(self, manifest)
        return manifest
      end
      tried = tried + 1
    end
  end
  if tried > 0 then
    agreement.raise('FORMAT', '%s: none of the %d checkpoints of training %d can be read',
      self.root, tried, self.training)
  end
  self.job:say(('neap: %s: no checkpoint of training %d yet: it starts at step 0'):format(self.root,
    self.training))
end

--- Where the parts of a saver's training began, and under what: a list. manifest: of the checkpoint
-- that it goes on from, or nil.
function resume.segments(self, manifest)
  local list, job = {}, self.job
  for _, segment in ipairs(manifest and manifest.segments or {}) do
    list[#list + 1] = segment
  end
  list[#list + 1] = { step = self.begun, ranks = job.ranks, policy = self.trainer.policy,
    device = job.device, transport = job.comm:transport(), engine = lib.version,
    time = math.floor(C.neap_time()),
    policy_state = manifest and fate_of_policy(self, manifest) }
  return list
end

return resume

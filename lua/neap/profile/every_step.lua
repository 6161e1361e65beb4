-- SPDX-License-Identifier: Apache-2.0

--- The timeline of a job that records all its steps from one on, for measurements.
--
--   local record = every_step.open(3)     -- what a trainer takes for its job's timeline
--   …                                     -- steps
--   record.summaries                      -- on rank 0: breakdown.summary of each
--   record.last                           -- on rank 0: the spans of the last one
--   record:close()

local errors = require 'neap.base.errors'
local breakdown = require 'neap.profile.breakdown'
local timeline = require 'neap.engine.timeline'

local every_step = {}

local Recording = {}
Recording.__index = Recording

--- first: the first step that counts.
function every_step.open(first)
  return setmetatable({ recorder = timeline.open(), summaries = {}, first = first }, Recording)
end

function Recording.check_steps() end

function Recording:start(step)
  if step < self.first then return nil end
  self.recorder:start(step)
  return self.recorder
end

--- Of a recorder that has been stopped. Collective.
function Recording:keep(comm)
  local lost = self.recorder:lost()
  local ranks = timeline.gather(comm, self.recorder)
  if not ranks then return end
  if lost > 0 then errors.plain('timeline: %d spans were lost for want of room', lost) end
  self.last = ranks
  self.summaries[#self.summaries + 1] = breakdown.summary(ranks)
end

function Recording:close()
  self.recorder:close()
end

return every_step

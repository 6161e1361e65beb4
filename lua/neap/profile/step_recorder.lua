-- SPDX-License-Identifier: Apache-2.0

--- The timeline of a job: neap run --timeline=FILE records one step of every training in it.
--
-- Who trains calls check_steps(steps) before, start(step) before every step, and after one for
-- which that gave a recorder, stops it and calls keep(comm, label) (collective). The file has the
-- trainings one after the other and is whole after each of them; where the time goes is printed at
-- the end.

local errors = require 'neap.base.errors'
local breakdown = require 'neap.profile.breakdown'
local timeline = require 'neap.engine.timeline'
local chrome_trace = require 'neap.profile.chrome_trace'

local step_recorder = {}

local Recording = {}
Recording.__index = Recording

local DEFAULT_STEP = 3 -- the first ones reserve memory

--- path: of the JSON file. step: the one to record, or nil for an early one.
function step_recorder.open(path, step)
  return setmetatable({ path = path, asked = step, runs = {}, recorder = timeline.open() },
    Recording)
end

--- Raises a usage error if the step to record is not among so many.
function Recording:check_steps(steps)
  if self.asked and self.asked >= steps then
    errors.usage('--timeline-step is %d; this training has steps 0 to %d', self.asked, steps - 1)
  end
  self.step = self.asked or math.min(DEFAULT_STEP, steps - 1)
end

--- Starts to record if this is the step; returns the recorder then.
function Recording:start(step)
  if step ~= self.step then return nil end
  self.recorder:start(step)
  return self.recorder
end

--- Of a recorder that has been stopped. Collective.
function Recording:keep(comm, label)
  local lost = self.recorder:lost()
  local ranks = timeline.gather(comm, self.recorder)
  if not ranks then return end
  self.runs[#self.runs + 1] = { label = label, ranks = ranks, lost = lost }
  chrome_trace.write(self.path, self.runs)
end

local function text_of(run, step)
  local summary = breakdown.summary(run.ranks)
  local text = ('%s, step %d: %.1f ms\n%s'):format(run.label, step, summary.seconds * 1e3,
    breakdown.text(summary))
  if run.lost > 0 then
    text = ('%s\n%d spans of rank 0 were lost for want of room'):format(text, run.lost)
  end
  return text
end

--- Tells where the time went: on stdout, or beside JSON results on stderr.
function Recording:close(job)
  self.recorder:close()
  if job.rank ~= 0 then return end
  if not self.runs[1] then
    errors.plain('timeline: nothing was recorded; this recipe does not train with neap.trainer')
  end
  local say = job.json and job.say or job.print
  for _, run in ipairs(self.runs) do say(job, '\n' .. text_of(run, self.step)) end
  say(job, ('\ntimeline: %s; open it at https://ui.perfetto.dev'):format(self.path))
end

return step_recorder

-- SPDX-License-Identifier: Apache-2.0

--- Does the runs of a sweep, some at a time, as child processes.

local claims = require 'neap.sweep.claims'
local errors = require 'neap.base.errors'
local subprocess = require 'neap.engine.subprocess'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local progress = require 'neap.base.progress'

local executor = {}

local POLL = 0.03         -- seconds between looks at the children
local STDERR_BYTES = 4000 -- of a failed run that the store keeps
local PATIENCE = 10       -- seconds that an interrupted run has to end before it is killed

local function words_of(text)
  local words = {}
  for word in (text or ''):gmatch '%S+' do words[#words + 1] = word end
  return words
end

local function start(self, entry)
  local argv = words_of(self.launch)
  for _, word in ipairs { launcher.folder .. '/neap', entry.kind, unpack(entry.words) } do
    argv[#argv + 1] = word
  end
  argv[#argv + 1] = '--json'
  local environment = { NEAP_STORE = self.runs.path, NEAP_KEY = entry.key,
    NEAP_RUN = ('%d'):format(entry.run), NEAP_SWEEP = self.name, NEAP_HOME = launcher.home }
  for _, name in ipairs(launcher.rank_variables) do
    environment[name] = '' -- a run is no rank of what has started the sweep
  end
  entry.child = subprocess.open(argv, environment)
  entry.started = lib.C.neap_time()
  self.active[#self.active + 1] = entry
end

--- Whether another sweep has done the run meanwhile, or is at it; else it is this one's.
local function taken(self, entry)
  local id, state, row = claims.take(self.runs, entry, self.name)
  entry.run, entry.state = id or row.id, state or entry.state
  return not id
end

--- The line of a text that tells most: the last one of Neap's, else the first that is neither a
-- ruler nor progress.
local function telling(text)
  local first, last
  for line in text:gmatch '[^\r\n]+' do
    if line:match '^neap: ' then last = line end
    if line:match '%a' and not line:match ' %d+/%d+ ' then first = first or line end
  end
  return last or first
end

--- Why a run has failed that could not say it in the store; on further lines, the end of what it
-- wrote to stderr.
local function complaint(entry)
  local _, told = entry.child:output()
  local status = entry.child.status
  local how = status > 128 and ('ended by signal %d'):format(status - 128)
    or ('exit status %d'):format(status)
  local line = telling(told)
  return ('%s\n%s'):format(line and how .. ': ' .. line or how, told:sub(-STDERR_BYTES))
end

--- Sees to it that the store says how the run ended.
local function record_end(self, entry)
  local status = entry.child.status
  local row, told = claims.row(self.runs, entry)
  entry.run = row and row.id
  if (status == 0 or status == errors.FAULTY) and row and row.state == 'done' then
    entry.state, entry.error = 'done', status ~= 0 and 'a policy was never in force' or nil
    return
  end
  entry.state, entry.error = 'failed', told and row.error or complaint(entry)
  if row and row.state ~= 'failed' then
    self.runs:finish(row.id, status == 0 and 1 or status, entry.error)
  end
end

--- Children that have ended leave the list of the active ones.
local function collect(self, on_end)
  for i = #self.active, 1, -1 do
    local entry = self.active[i]
    if entry.child:ended() then
      table.remove(self.active, i)
      on_end(entry)
      entry.child:close()
      entry.child = nil
    end
  end
end

local function stop_all(self)
  for _, entry in ipairs(self.active) do entry.child:stop() end
  local began, killed = lib.C.neap_clock(), false
  while #self.active > 0 do
    collect(self, function(entry)
      entry.state = 'todo'
      claims.drop(self.runs, entry)
    end)
    if not killed and lib.C.neap_clock() - began > PATIENCE then
      for _, entry in ipairs(self.active) do entry.child:stop(true) end
      killed = true
    end
    launcher.sleep(POLL)
  end
end

local function text_of(self)
  local labels = {}
  for i, entry in ipairs(self.active) do labels[i] = entry.label end
  return table.concat(labels, ' | ')
end

--- Does the entries of a plan. options: name, runs (store), jobs, launch (text before the program,
-- or nil). Fills in state, run and error. Returns false if it was interrupted: then the runs under
-- way have been stopped, and are still to do.
function executor.run(entries, options)
  local self = setmetatable({ active = {} }, { __index = options })
  local bar, next_one, done = progress.open(#entries, 'sweep ' .. self.name), 1, 0
  subprocess.catch_interrupts()
  while next_one <= #entries or #self.active > 0 do
    while next_one <= #entries and #self.active < self.jobs do
      if taken(self, entries[next_one]) then
        done = done + 1
      else
        start(self, entries[next_one])
      end
      next_one = next_one + 1
    end
    launcher.sleep(POLL)
    collect(self, function(entry)
      if subprocess.interrupts() > 0 then return end
      record_end(self, entry)
      done = done + 1
    end)
    bar:update(done, function() return text_of(self) end)
    if subprocess.interrupts() > 0 then
      stop_all(self)
      bar:close()
      return false
    end
  end
  bar:close()
  return true
end

return executor

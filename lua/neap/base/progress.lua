-- SPDX-License-Identifier: Apache-2.0

--- The progress line on stderr: rewritten in place on a terminal, else a line now and then.

local lib = require 'neap.base.lib'
local launcher = require 'neap.launcher'
local text_table = require 'neap.base.text_table'

local Progress = {}
Progress.__index = Progress

local progress = {}

local INTERVAL = { terminal = 0.2, file = 10 }

--- total: steps to come; label: begins the line. quiet: true for ranks that do not speak.
function progress.open(total, label, quiet)
  local terminal = launcher.terminal(2)
  return setmetatable({
    total = total, label = label or '', quiet = quiet, terminal = terminal,
    interval = terminal and INTERVAL.terminal or INTERVAL.file,
    began = lib.C.neap_clock(), shown = -math.huge, width = 0,
  }, Progress)
end

local function duration(seconds)
  return seconds < 59.5 and ('%.0f s'):format(seconds) or text_table.duration(seconds)
end

function Progress:write(line)
  if self.terminal then
    io.stderr:write('\r', line, (' '):rep(self.width - #line))
    self.width = #line
  else
    io.stderr:write(line, '\n')
  end
end

--- done: steps finished; text: what else to say, or a function that gives it (called only when a
-- line is due).
function Progress:update(done, text)
  local now = lib.C.neap_clock()
  if self.quiet or (now - self.shown < self.interval and done < self.total) then return end
  self.shown = now
  local left = done > 0 and (now - self.began) / done * (self.total - done)
  self:write(('%s %d/%d  %s%s'):format(self.label, done, self.total,
    type(text) == 'function' and text() or text or '',
    left and ('  %s left'):format(duration(left)) or ''))
end

--- Ends the line.
function Progress:close()
  if self.terminal and self.width > 0 then
    io.stderr:write '\n'
    self.width = 0
  end
end

return progress

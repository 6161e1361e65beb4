-- SPDX-License-Identifier: Apache-2.0

--- A rank whose policy hangs, for session_spec.lua to kill; called with the file for process ids.
local lib = require 'neap.base.lib'
local launcher = require 'neap.launcher'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local path = ...
local stat = io.open '/proc/self/stat'
local s = session.open {
  topology = topology.open { ranks = 2, slots = 2, experts = 2 }, layers = 1, deadline = 60,
  trusted = true, -- it writes to that file
  policy = ('tests/policies/hangs.lua:path=%s,rank=%s'):format(path, stat:read '*a':match '^%d+'),
}
s:record(0, 0, lib.ffi.new 'int64_t[4]')
while true do launcher.sleep(1) end

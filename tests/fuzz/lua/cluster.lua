-- SPDX-License-Identifier: Apache-2.0

--- Descriptions of clusters: one that is accepted simulates a step in a time that is a number.

local clusters = require 'neap.simulate.cluster'
local judge = require 'judge'
local lib = require 'neap.base.lib'
local topologies = require 'neap.engine.topology'
local values = require 'values'

local MOST_RANKS = 16
local NAMES = { 'ranks', 'node_size', 'flops', 'gemm', 'attention', 'tile', 'memory', 'launch',
  'host', 'port', 'uplink', 'elementwise', 'latency', 'far_latency', 'capacity', 'doc', 'queued',
  'shared', 'copied', 'speed' }

local ffi = lib.ffi

--- As neap.simulate does: topology, cluster, a few operations.
local function step(machine)
  local topology = topologies.open { ranks = machine.ranks, slots = 2, experts = 2,
    node_size = math.min(machine.node_size, machine.ranks), speed = machine.speed }
  local c = clusters.open(machine, topology)
  local bytes = ffi.new('double[?]', machine.ranks)
  for rank = 0, machine.ranks - 1 do bytes[rank] = 1e6 * (rank + 1) end
  local first = c:compute({ name = 'attention' }, machine.launch + 1e9 / machine.flops)
  local second = c:exchange({ name = 'dispatch' }, 'tokens', { ports = bytes, after = { first } })
  c:compute({ name = 'experts' }, 1e6 / machine.memory, bytes, { second })
  c:run()
  local seconds = c:report().seconds
  c:close()
  topology:close()
  return seconds
end

return function(text)
  local reader = values.reader(text)
  local names = clusters.names()
  local base = reader:byte() % 4 > 0 and names[reader:byte() % #names + 1] or reader:table(NAMES, 2)
  local ok, machine = judge({ USAGE = true }, clusters.describe, base, reader:table(NAMES, 2))
  if not ok then return end
  if machine.ranks > MOST_RANKS then return end
  local done, seconds = judge({ ARGUMENT = true, USAGE = true }, step, machine)
  if done and (seconds ~= seconds or seconds < 0) then
    error('a step takes ' .. tostring(seconds))
  end
end

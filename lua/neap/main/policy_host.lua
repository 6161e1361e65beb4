-- SPDX-License-Identifier: Apache-2.0

--- A policy for a program that is not Neap's (python/neap/policy.py): a session on one rank, asked
-- over two pipes. Called as a file with their paths, and run until the requests end.
--
-- The first request is a line of JSON, what session.open takes: topology { ranks, experts, slots,
-- node_of, cost, speed, homes }, layers, policy, seed, deadline, strict, trusted, wait.
-- Others are a line, and after that of split a load, int64 [ranks][experts]:
--   advance STEP             layouts int32 [layers][slots]
--   split STEP LAYER RECORD  layout int32 [slots], then tokens int64 [ranks][slots];
--                            RECORD 1: of a training, which plans on it; 0: of an evaluation
--   report                   nothing
-- An answer is a line of JSON, { error = { code, message } } or { messages = of new faults, … },
-- and unless it is an error the numbers.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local session = require 'neap.policy.session'
local topologies = require 'neap.engine.topology'

local ffi = lib.ffi

local Host = {}
Host.__index = Host

--- A list with its numbers from 0 as a C array.
local function array(ctype, list)
  return ffi.new(ctype .. '[?]', #list, list)
end

local function open_host(setup)
  local t = setup.topology
  local topology = topologies.open { ranks = t.ranks, experts = t.experts, slots = t.slots,
    node_of = array('int32_t', t.node_of), cost = t.cost, speed = t.speed, homes = t.homes }
  local self = setmetatable({ topology = topology, layers = setup.layers, messages = {},
    load = ffi.new('int64_t[?]', topology.ranks * topology.experts),
    tokens = ffi.new('int64_t[?]', topology.ranks * topology.slots) }, Host)
  self.session = session.open { topology = topology, layers = setup.layers,
    policy = setup.policy, seed = setup.seed, deadline = setup.deadline, strict = setup.strict,
    trusted = setup.trusted, wait = setup.wait,
    listener = { fault = function(message) self.messages[#self.messages + 1] = message end } }
  return self, { plans_on = self.session.plans_on, name = self.session.name }
end

local function bytes(pointer, count)
  return ffi.string(pointer, count)
end

function Host:layouts()
  local parts, size = {}, self.topology.slots * 4
  for layer = 0, self.layers - 1 do
    parts[layer + 1] = bytes(self.session:layout(layer):array(), size)
  end
  return table.concat(parts)
end

local answers = {}

function answers.advance(self, step)
  self.session:advance(step)
  return {}, self:layouts()
end

function answers.split(self, step, layer, record)
  local t, s = self.topology, self.session
  if record == 1 then s:plan_now(step, layer, self.load) end
  local split = s:split(step, layer, self.load)
  for rank = 0, t.ranks - 1 do split:row(rank, self.tokens + rank * t.slots) end
  if record == 1 then s:record(step, layer, self.load) end
  return {}, bytes(s:layout(layer):array(), t.slots * 4), bytes(self.tokens, t.ranks * t.slots * 8)
end

function answers.report(self)
  return { report = self.session:report() }
end

local function main(requests_path, answers_path)
  local requests = assert(io.open(requests_path, 'rb'))
  local out = assert(io.open(answers_path, 'wb'))
  local host
  local function answer(ok, about, ...)
    if not ok then
      about = { error = { code = errors.code(about) or 'FAILED',
        message = errors.describe(about) } }
    elseif host then
      about.messages, host.messages = host.messages, {}
    end
    out:write(json.encode(about), '\n', ok and table.concat { ... } or '')
    out:flush()
    return ok
  end
  local made, about
  made, host, about = xpcall(open_host, errors.handler, (json.decode(requests:read '*l' or '')))
  if not answer(made, made and about or host) then return 1 end
  for line in requests:lines() do
    local verb, numbers = line:match '^(%l+)(.*)$', {}
    for number in line:gmatch '%d+' do numbers[#numbers + 1] = tonumber(number) end
    if verb == 'split' then
      local size = ffi.sizeof(host.load)
      ffi.copy(host.load, assert(requests:read(size)), size)
    end
    answer(xpcall(function() return answers[verb](host, unpack(numbers)) end, errors.handler))
  end
  host.session:close()
end

return main(...)

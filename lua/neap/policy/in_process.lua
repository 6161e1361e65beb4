-- SPDX-License-Identifier: Apache-2.0

--- A policy that runs in the rank itself (--in-process), for debuggers and profilers: the same
-- methods as a worker's (worker.lua), at once and without deadline.

local lib = require 'neap.base.lib'
local runtime = require 'neap.policy.runtime'

local in_process = {}

local InProcess = {}
InProcess.__index = InProcess

--- options: as runtime.open takes them.
function in_process.open(options)
  local hooks = runtime.open(options)
  return setmetatable({
    runtime = hooks, name = hooks.name, rule = hooks.rule, plans_on = hooks.plans_on,
    lines = hooks.lines, keep = hooks.keep, answers = {}, first = 1,
  }, InProcess)
end

--- Plans at once; the answer waits for next. known: the load has been handed over before.
function InProcess:request(known, plan_step, layer, load, expert_of)
  if not known then self.runtime:record(layer, load) end
  local start = lib.C.neap_clock()
  local outcome, result = self.runtime:plan(plan_step, layer, expert_of, known)
  local answer = { outcome = outcome, step = plan_step, layer = layer,
    current = not known, seconds = lib.C.neap_clock() - start }
  if outcome == runtime.PLANNED then
    answer.expert_of = lib.ffi.new('int32_t[?]', self.runtime.topology.slots)
    lib.ffi.copy(answer.expert_of, result, self.runtime.topology.slots * 4)
  else
    answer.message = result
  end
  self.answers[#self.answers + 1] = answer
  self.stateful = self.stateful or self.runtime:has_fields(layer)
  return true
end

--- The next answer, or nil.
function InProcess:next()
  local answer = self.answers[self.first]
  if not answer then
    self.answers, self.first = {}, 1
    return nil
  end
  self.first = self.first + 1
  return answer
end

--- Answers that are still to come.
function InProcess:pending()
  return #self.answers - self.first + 1
end

--- Tokens of a split hook, written to out[ranks][slots]: outcome and message.
function InProcess:split(step, layer, load, expert_of, out)
  return self.runtime:split(step, layer, load, expert_of, out)
end

--- How a layer travels from a step on: outcome, and that or a message.
function InProcess:precision(step, layer, before, numbers, expert_of)
  return self.runtime:precision(step, layer, before, numbers, expert_of)
end

--- A load of an earlier step, for the history alone.
function InProcess:remember(layer, load)
  self.runtime:record(layer, load)
end

--- What the policy wants a checkpoint to keep of a layer: outcome, and a text or message.
function InProcess:save(step, layer)
  return self.runtime:save(step, layer)
end

--- Hands it back: outcome and message.
function InProcess:restore(step, layer, text)
  return self.runtime:restore(step, layer, text)
end

function InProcess:close()
  self.runtime = nil
end

return in_process

--- The door to a policy that runs in the rank itself (--in-process), for debuggers and profilers:
-- the same methods as a worker's (worker.lua), at once and without deadline.

local lib = require 'neap.base.lib'
local runtime = require 'neap.policy.runtime'

local in_process = {}

local Inline = {}
Inline.__index = Inline

--- options: as runtime.open takes them.
function in_process.open(options)
  local self = setmetatable({ host = runtime.open(options), answers = {}, first = 1 }, Inline)
  self.rule, self.plans_on, self.lines = self.host.rule, self.host.plans_on, self.host.lines
  return self
end

--- Plans at once; the answer waits for next. known: the load has been handed over before.
function Inline:observe(known, plan_step, layer, load, expert_of)
  if not known then self.host:observe(layer, load) end
  local start = lib.C.neap_clock()
  local outcome, result = self.host:plan(plan_step, layer, expert_of, known)
  local answer = { outcome = outcome, step = plan_step, layer = layer,
    current = not known, seconds = lib.C.neap_clock() - start }
  if outcome == runtime.PLANNED then
    answer.expert_of = lib.ffi.new('int32_t[?]', self.host.topology.slots)
    lib.ffi.copy(answer.expert_of, result, self.host.topology.slots * 4)
  else
    answer.message = result
  end
  self.answers[#self.answers + 1] = answer
  return true
end

--- The next answer, or nil.
function Inline:next()
  local answer = self.answers[self.first]
  if not answer then
    self.answers, self.first = {}, 1
    return nil
  end
  self.first = self.first + 1
  return answer
end

--- Answers that are still to come.
function Inline:pending()
  return #self.answers - self.first + 1
end

--- Amounts of a split hook, written to out[ranks][slots]: outcome and message.
function Inline:split(step, layer, load, expert_of, out)
  return self.host:split(step, layer, load, expert_of, out)
end

function Inline:close()
  self.host = nil
end

return in_process

-- SPDX-License-Identifier: Apache-2.0

--- Summary of simulated steps: means over steps of what a cluster's reports tell.
--
--   local s = summary.open()
--   s:add(cluster:report(), cluster)      -- after every step
--   local row = s:row(balance)            -- of series.balance

local metrics = require 'neap.runs.metrics'

local summary = {}

local Summary = {}
Summary.__index = Summary

function summary.open()
  return setmetatable({ steps = 0, seconds = 0, ideal = 0, busy = 0, expert = 0,
    exposed = { tokens = 0, unshard = 0, late = 0, reduce = 0, other = 0 } }, Summary)
end

--- Mean seconds over ranks of all operations of a name.
local function seconds_of(cluster, name)
  local sum = 0
  for op = 0, #cluster.spans do
    if cluster.spans[op].name == name and cluster.spans[op].stream == 'compute' then
      sum = sum + (cluster:operation(op))
    end
  end
  return sum
end

--- Of a step that the cluster holds.
function Summary:add(report, cluster)
  self.steps, self.busy = self.steps + 1, self.busy + report.busy.compute
  self.seconds, self.ideal = self.seconds + report.seconds, self.ideal + report.ideal
  for stream, seconds in pairs(report.exposed) do
    self.exposed[stream] = self.exposed[stream] + seconds
  end
  self.expert = self.expert + seconds_of(cluster, 'expert')
end

--- A row (neap.runs.metrics): step_ms, ideal_ms, utilization, exposed, the balance's if there is
-- one, and of the time of a step, mean over ranks: exposed_ms = { tokens, unshard, late, reduce:
-- waiting for these exchanges, the first with the waiting for slow ranks; other: for the step's
-- end } and compute_ms = { expert, other }.
function Summary:row(balance)
  local row, steps = balance and balance:summary() or {}, self.steps
  local function ms(seconds) return seconds / steps * 1e3 end
  row.simulated, row.step_ms, row.ideal_ms = true, ms(self.seconds), ms(self.ideal)
  row.utilization = self.busy / self.seconds
  local e = self.exposed
  row.exposed = (e.tokens + e.unshard + e.late + e.reduce + e.other) / self.seconds
  row.exposed_ms = { tokens = ms(e.tokens), unshard = ms(e.unshard),
    late = e.late > 0 and ms(e.late) or nil, reduce = ms(e.reduce), other = ms(e.other) }
  row.compute_ms = { expert = ms(self.expert), other = ms(self.busy - self.expert) }
  return metrics.complete(row)
end

return summary

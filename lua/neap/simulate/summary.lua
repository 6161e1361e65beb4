--- Figures of simulated steps: means over steps of what a cluster's reports tell.
--
--   local f = figures.open()
--   f:add(cluster:report(), cluster)      -- after every step
--   f:row(balance)                        -- of metrics.balance

local figures = {}

local Figures = {}
Figures.__index = Figures

function figures.open()
  return setmetatable({ steps = 0, seconds = 0, ideal = 0, busy = 0, tokens = 0, unshard = 0,
    reduce = 0, idle = 0, expert = 0 }, Figures)
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
function Figures:add(report, cluster)
  local waited = report.waited
  self.steps = self.steps + 1
  self.seconds, self.ideal = self.seconds + report.seconds, self.ideal + report.ideal
  self.busy, self.idle = self.busy + report.busy.compute, self.idle + report.idle_end
  self.tokens, self.unshard = self.tokens + waited.tokens, self.unshard + waited.unshard
  self.reduce = self.reduce + waited.reduce
  self.expert = self.expert + seconds_of(cluster, 'expert')
end

--- step_ms, ideal_ms, utilization, exposed, share_of_ideal, and of the step's time what ranks spend
-- on average, in seconds: tokens (exchanges of tokens and waiting for slow ranks), unshard and
-- reduce (waiting for them), expert, other; imbalance, spread, std_percent, inter_node_share.
function Figures:row(balance)
  local row, steps = balance:summary(), self.steps
  row.imbalance, row.spread = row.imbalance.mean, row.imbalance
  row.step_ms, row.ideal_ms = self.seconds / steps * 1e3, self.ideal / steps * 1e3
  row.utilization = self.busy / self.seconds
  row.exposed = (self.tokens + self.unshard + self.reduce + self.idle) / self.seconds
  row.share_of_ideal = self.ideal / self.seconds
  row.tokens, row.unshard = self.tokens / steps, self.unshard / steps
  row.reduce, row.expert = (self.reduce + self.idle) / steps, self.expert / steps
  row.other = (self.busy - self.expert) / steps
  return row
end

return figures

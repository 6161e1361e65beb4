-- SPDX-License-Identifier: Apache-2.0

--- Series of measurements, and the balance of a run: the metrics of neap.runs.metrics that follow
-- from splits.

local series = {}

local Series = {}
Series.__index = Series

--- An empty series of numbers.
-- : -> Series
function series.open()
  return setmetatable({ count = 0, sum = 0 }, Series)
end

--- Adds a number.
-- : number
function Series:add(value)
  self.count = self.count + 1
  self.sum = self.sum + value
  self[self.count] = value
end

--- The same numbers as so many doubles in C memory.
-- : double[], integer
function Series:set(values, count)
  for i = #self, 1, -1 do self[i] = nil end
  self.count, self.sum = 0, 0
  for i = 0, count - 1 do self:add(values[i]) end
end

--- Mean, or 0 of an empty series.
-- : -> number
function Series:mean()
  return self.count > 0 and self.sum / self.count or 0
end

--- Quantile q in [0, 1], linear between neighbours; 0 of an empty series.
-- : number -> number
function Series:quantile(q)
  if self.count == 0 then
    return 0
  end
  local sorted = {}
  for i = 1, self.count do sorted[i] = self[i] end
  table.sort(sorted)
  local position = 1 + q * (self.count - 1)
  local low = math.floor(position)
  local high = math.min(low + 1, self.count)
  return sorted[low] + (position - low) * (sorted[high] - sorted[low])
end

--- Mean of the last n values.
-- : integer -> number
function Series:recent(n)
  local first = math.max(1, self.count - n + 1)
  local sum = 0
  for i = first, self.count do sum = sum + self[i] end
  return self.count > 0 and sum / (self.count - first + 1) or 0
end

--- What a policy did to the balance of a run: feed it the balance of every layer and step.
local Balance = {}
Balance.__index = Balance

--- An empty series of balances.
-- : -> Balance
function series.balance()
  return setmetatable({
    imbalance = series.open(), std = series.open(), tokens = 0, inter_node = 0, remote = 0,
  }, Balance)
end

--- balance: what split:balance() returns.
-- : table
function Balance:add(balance)
  self.imbalance:add(balance.imbalance)
  self.std:add(balance.std_percent)
  self.tokens = self.tokens + balance.tokens
  self.inter_node = self.inter_node + balance.inter_node
  self.remote = self.remote + balance.remote
end

--- Its metrics, as a row of neap.runs.metrics has them.
-- : -> table
function Balance:summary()
  local imbalance = self.imbalance
  return {
    imbalance = {
      mean = imbalance:mean(), p50 = imbalance:quantile(0.5), p95 = imbalance:quantile(0.95),
      max = imbalance:quantile(1),
    },
    std_percent = self.std:mean(),
    inter_node_share = self.tokens > 0 and self.inter_node / self.tokens or 0,
  }
end

return series

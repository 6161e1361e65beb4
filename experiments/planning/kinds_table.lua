-- SPDX-License-Identifier: Apache-2.0

--- Is neap ever the wrong choice? 51 kinds of load sets, under it and under every other policy.
--
-- Prints, as Markdown, neap's and late's balance and share of tokens across nodes for each kind,
-- the best mean and p95 of the other policies on history, and which of them dominates neap: neither
-- its mean nor its share is higher, and one is lower.
--
--   ./neap lua experiments/planning/kinds_table.lua [SEED [KIND…]]
--
-- Costs: about three minutes of one core for all kinds, and 600 MB.

local neap = require 'neap'
local kinds = require 'planning.kinds'

local OTHERS = { 'static', 'static+minimax', 'laer', 'laer+minimax', 'laer+minimax:window=2',
  'flexmoe', 'flexmoe+minimax', 'hot', 'smooth', 'smooth+minimax', 'eplb', 'eplb+minimax', 'moonep',
  'ultraep', 'llep', 'lplb', 'maxtext' }

-- What counts as equal: of an imbalance, as printed, and of a share.
local SAME_BALANCE, SAME_SHARE = 5e-5, 5e-5
local MEAN, P95 = 0.001, 1.02 -- neap is best within: more than the least mean; times the least p95

local function score(set, policy)
  local row = neap.replay.score { trace = set.trace, topology = set.topology, policy = policy,
    in_process = true }
  return { policy = policy, mean = row.imbalance.mean, p95 = row.imbalance.p95,
    share = row.inter_node_share }
end

local function least(scores, key)
  local best = scores[1]
  for _, s in ipairs(scores) do
    if s[key] < best[key] then best = s end
  end
  return best
end

local function dominating(ours, scores)
  for _, s in ipairs(scores) do
    local mean, share = s.mean - ours.mean, s.share - ours.share
    if mean < SAME_BALANCE and share < SAME_SHARE and (mean < -SAME_BALANCE or
      share < -SAME_SHARE) then
      return s.policy
    end
  end
end

local seed, names = tonumber((...)) or 1, { select(2, ...) }
if #names == 0 then names = kinds.names() end

print '| kind | neap | p95 | inter-node % | late | best mean of others | best p95 of others | by |'
print '|---|---|---|---|---|---|---|---|'
local count = { sets = 0, mean = 0, p95 = 0, dominated = 0 }
for _, name in ipairs(names) do
  local set, scores = kinds.open(name, seed), {}
  for i, policy in ipairs(OTHERS) do scores[i] = score(set, policy) end
  local ours, late = score(set, 'neap'), score(set, 'late')
  local mean, p95, by = least(scores, 'mean'), least(scores, 'p95'), dominating(ours, scores)
  count.sets = count.sets + 1
  count.mean = count.mean + (ours.mean <= mean.mean + MEAN and 1 or 0)
  count.p95 = count.p95 + (ours.p95 <= p95.p95 * P95 and 1 or 0)
  count.dominated = count.dominated + (by and 1 or 0)
  print(('| %s | %.4f | %.3f | %.2f | %.4f | %.4f %s | %.3f %s | %s |'):format(set.name, ours.mean,
    ours.p95, 100 * ours.share, late.mean, mean.mean, mean.policy, p95.p95, p95.policy, by or ''))
  io.stdout:flush()
end
print(('\nOf %d kinds neap has the best mean (within %g) in %d, the best p95 (within %g %%) in %d, '
  .. 'and is dominated in %d.'):format(count.sets, MEAN, count.mean, 100 * P95 - 100, count.p95,
  count.dominated))

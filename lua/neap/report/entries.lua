--- What a report compares: entries, one a policy, whatever they were measured by.
--   { policy =, kind = 'replay' or 'run', seeds = list, figures = { name = value },
--     curves = { name = { values = list, first = step } } }
-- Figures: imbalance p95 max std_percent inter_node exposed rate ideal_rate share loss plan_ms
-- split_us late faults.

local entries = {}

local function put(figures, name, value)
  if type(value) == 'number' then figures[name] = value end
end

--- Of the summary of a replay or a training run, as neap replay --json and neap run --json print.
function entries.from_summary(row, kind)
  local f, imbalance = {}, row.imbalance or {}
  put(f, 'imbalance', imbalance.mean)
  put(f, 'p95', imbalance.p95)
  put(f, 'max', imbalance.max)
  put(f, 'std_percent', row.std_percent)
  put(f, 'inter_node', row.inter_node_share)
  put(f, 'exposed', row.exposed)
  put(f, 'rate', row.tokens_per_second)
  put(f, 'ideal_rate', row.ideal_tokens_per_second)
  put(f, 'loss', row.loss)
  put(f, 'plan_ms', row.plan_ms and row.plan_ms.mean)
  put(f, 'split_us', row.split_us and row.split_us.mean)
  put(f, 'late', row.late)
  put(f, 'faults', row.faults)
  if f.rate and f.ideal_rate then
    f.share = f.rate / f.ideal_rate
  elseif f.imbalance then
    f.share = 1 / f.imbalance
  end
  local curves = {}
  if row.losses then curves.loss = { values = row.losses, first = 0 } end
  return { policy = row.policy, kind = kind, seeds = { row.seed }, figures = f, curves = curves,
    bound = row.bound or nil }
end

--- Mean of curves over those that reach a step.
local function mean_curve(list)
  local values, longest = {}, 0
  for _, curve in ipairs(list) do longest = math.max(longest, #curve.values) end
  for i = 1, longest do
    local sum, count = 0, 0
    for _, curve in ipairs(list) do
      if curve.values[i] then sum, count = sum + curve.values[i], count + 1 end
    end
    values[i] = sum / count
  end
  return { values = values, first = list[1].first }
end

local function mean_of(group, part, mean)
  local lists, out = {}, {}
  for _, entry in ipairs(group) do
    for name, value in pairs(entry[part]) do
      lists[name] = lists[name] or {}
      table.insert(lists[name], value)
    end
  end
  for name, list in pairs(lists) do out[name] = mean(list) end
  return out
end

local function mean_number(list)
  local sum = 0
  for _, value in ipairs(list) do sum = sum + value end
  return sum / #list
end

--- One entry a policy, in the order in which they first appear: means over its runs.
function entries.group(list)
  local groups, order = {}, {}
  for _, entry in ipairs(list) do
    if not groups[entry.policy] then
      groups[entry.policy] = {}
      order[#order + 1] = entry.policy
    end
    table.insert(groups[entry.policy], entry)
  end
  local out = {}
  for i, policy in ipairs(order) do
    local group, seeds = groups[policy], {}
    for j, entry in ipairs(group) do seeds[j] = entry.seeds[1] end
    out[i] = { policy = policy, name = entries.short(policy), kind = group[1].kind,
      bound = group[1].bound, seeds = seeds, runs = #group,
      figures = mean_of(group, 'figures', mean_number),
      curves = mean_of(group, 'curves', mean_curve) }
  end
  return out
end

--- A policy's text without the folders of its file.
function entries.short(policy)
  return (policy:gsub('^.*/([^/]*%.lua)', '%1'))
end

--- The entry of a policy by name, or nil.
function entries.find(list, policy)
  for _, entry in ipairs(list) do
    if entry.policy == policy or entry.policy:match '^[^:]*' == policy then return entry end
  end
end

--- Entries, best first by a figure, 'rate' or 'imbalance'. Bounds, which see the future, are left
-- out.
function entries.rank(list, by)
  local ranked = {}
  for _, entry in ipairs(list) do
    if not entry.bound and entry.figures[by] then ranked[#ranked + 1] = entry end
  end
  table.sort(ranked, function(a, b)
    local x, y = a.figures[by] or math.huge, b.figures[by] or math.huge
    if by == 'rate' then x, y = -x, -y end
    return x < y or x == y and a.policy < b.policy
  end)
  return ranked
end

return entries

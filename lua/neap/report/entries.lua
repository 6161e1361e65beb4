-- SPDX-License-Identifier: Apache-2.0

--- What a report compares: entries, one per policy, whatever they were measured by.
--   { policy =, name = (as pages show it), in_force =, kind = 'run', 'replay' or 'simulate',
--     seeds = list, rows = list, values = { metric = value }, curves = { metric = { values = list,
--     first = step } } }
-- Rows, metrics and their names: neap.runs.metrics.

local metrics = require 'neap.runs.metrics'
local names = require 'neap.runs.names'

local entries = {}

--- Of a row, as --json prints them and the store keeps them.
function entries.from_row(row, kind)
  local curves = {}
  row.simulated = row.simulated or kind == 'simulate' or nil -- earlier versions did not say it
  if row.losses then curves.loss = { values = row.losses, first = 0 } end
  return { policy = row.policy, kind = kind, seeds = { row.seed }, rows = { row },
    values = metrics.values(metrics.upgrade(row)), curves = curves, plans_on = row.plans_on,
    in_force = row.in_force, fits = row.fits }
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

--- Mean share in which its answers were in force; nil where they always were.
local function in_force(group)
  local shares, own = {}, true
  for i, entry in ipairs(group) do
    shares[i], own = entry.in_force or 1, own and not entry.in_force
  end
  return not own and mean_number(shares) or nil
end

--- 'no' if some run did not fit into the memory of its ranks, else nil.
local function fits(group)
  for _, entry in ipairs(group) do
    if entry.fits == 'no' then return 'no' end
  end
end

--- One entry per policy (and group), in the order in which they first appear: means over its runs.
function entries.group(list)
  local groups, order = {}, {}
  for _, entry in ipairs(list) do
    local key = entry.policy .. '\n' .. (entry.group or '')
    if not groups[key] then
      groups[key] = {}
      order[#order + 1] = key
    end
    table.insert(groups[key], entry)
  end
  local out = {}
  for i, key in ipairs(order) do
    local group, seeds, rows = groups[key], {}, {}
    for j, entry in ipairs(group) do seeds[j], rows[j] = entry.seeds[1], entry.rows[1] end
    out[i] = { policy = group[1].policy, name = rows[#rows].name, kind = group[1].kind,
      plans_on = group[1].plans_on, in_force = in_force(group), fits = fits(group),
      seeds = seeds, rows = rows, runs = #group, values = mean_of(group, 'values', mean_number),
      curves = mean_of(group, 'curves', mean_curve) }
  end
  for i, name in ipairs(names.of(out)) do
    local group = groups[order[i]][1].group
    out[i].name = group and ('%s, %s'):format(name, group) or name
  end
  return out
end

--- The entry of a policy by name, or nil.
function entries.find(list, policy)
  for _, entry in ipairs(list) do
    if entry.policy == policy or entry.policy:match '^[^:]*' == policy then return entry end
  end
end

--- Entries, best first by a metric. Those to which loads are known before are left out, and those
-- whose rows are not their doing.
function entries.rank(list, metric)
  local ranked, name = {}, metric.name
  for _, entry in ipairs(list) do
    if entry.plans_on ~= 'known' and names.counts(entry) and entry.values[name] then
      ranked[#ranked + 1] = entry
    end
  end
  table.sort(ranked, function(a, b)
    local x, y = a.values[name], b.values[name]
    if metric.better == 'higher' then x, y = -x, -y end
    return x < y or x == y and a.policy < b.policy
  end)
  return ranked
end

--- Rows of all entries.
function entries.rows(list)
  local rows = {}
  for _, entry in ipairs(list) do
    for _, row in ipairs(entry.rows) do rows[#rows + 1] = row end
  end
  return rows
end

return entries

-- SPDX-License-Identifier: Apache-2.0

--- Comparisons of policies over the run store: differences on the same seed, trace and parameters.
--
--   local results = compare.results(runs, { sweep = 'policies' })
--   local document = compare.policies(results, { baseline = 'static' })
--
-- Two results are a pair if all but the policy is equal: recipe or trace, parameters, ranks, seed.
-- Pairs that a seed has not changed in anything count once. From fewer than 5 pairs no winner is
-- called (statistics.lua has the interval).

local errors = require 'neap.base.errors'
local kept = require 'neap.runs.kept'
local lib = require 'neap.base.lib'
local marks = require 'neap.runs.marks'
local metrics = require 'neap.runs.metrics'
local policy_names = require 'neap.runs.names'
local statistics = require 'neap.runs.statistics'

local compare = {}

--- ---- what is compared -------------------------------------------------------------------------

local QUERY = [[SELECT s.id, s.run, s.policy, s.policy_sha256, s.seed, s.trace, s.context,
  s.summary, r.kind, r.sweep FROM results s JOIN runs r ON r.id = s.run
  WHERE s.summary IS NOT NULL AND r.state = 'done']]

local CHOICES = {
  sweep = ' AND r.key IN (SELECT key FROM sweeps WHERE name = ?)',
  runs = ' AND r.id BETWEEN ? AND ?',
}

--- Rows of results with policy as tables call it; what was given becomes text.
local function call_by_name(list)
  local of_text, texts, known = {}, {}, {}
  for _, row in ipairs(list) do
    if not of_text[row.policy] then texts[#texts + 1] = row.policy end
    of_text[row.policy] = row.summary.name or of_text[row.policy] or false
  end
  for i, text in ipairs(texts) do known[i] = { policy = text, name = of_text[text] or nil } end
  for i, name in ipairs(policy_names.plain(known)) do of_text[texts[i]] = name end
  for _, row in ipairs(list) do row.text, row.policy = row.policy, of_text[row.policy] end
  return list
end

--- Those of a list of results whose run has a tag.
local function only_tagged(runs, list, tag)
  local tagged, kept_ones = marks.tagged(runs, tag), {}
  for _, row in ipairs(list) do
    if tagged[row.run] then kept_ones[#kept_ones + 1] = row end
  end
  return kept_ones
end

--- Finished results, whose policy is what tables call it and whose text what was given. choice:
-- { sweep = name }, or { runs = list of numbers and ranges { first, last } }, or {} for all; and
-- tag: only those of runs with it.
-- : list of table, table -> list of table
function compare.results(runs, choice)
  local list
  if choice.sweep then
    list = runs:rows(QUERY .. CHOICES.sweep .. ' ORDER BY s.id', choice.sweep)
  elseif choice.runs then
    list = {}
    local seen = {}
    for _, range in ipairs(choice.runs) do
      local first, last = range, range
      if type(range) == 'table' then first, last = range[1], range[2] end
      for _, row in ipairs(runs:rows(QUERY .. CHOICES.runs .. ' ORDER BY s.id', first, last)) do
        if not seen[row.id] then list[#list + 1] = row end
        seen[row.id] = true
      end
    end
  else
    list = runs:rows(QUERY .. ' ORDER BY s.id')
  end
  if choice.tag then list = only_tagged(runs, list, choice.tag) end
  for _, row in ipairs(list) do
    row.summary = kept.summary(row.summary, ('%s: result %d: summary'):format(runs.path, row.id))
  end
  return call_by_name(list)
end

--- The newest result of each policy and circumstance, of the newest text of each policy.
local function newest(results, warnings)
  local text_of, stale, cells, order = {}, {}, {}, {}
  for _, row in ipairs(results) do
    if text_of[row.policy] and text_of[row.policy] ~= row.policy_sha256 then
      stale[row.policy] = true
    end
    text_of[row.policy] = row.policy_sha256
  end
  for _, row in ipairs(results) do
    if row.policy_sha256 == text_of[row.policy] then
      local group = ('%s %s'):format(row.context or '', row.seed or '')
      if not cells[row.policy] then
        cells[row.policy] = {}
        order[#order + 1] = row.policy
      end
      cells[row.policy][group] = row
    end
  end
  for _, policy in ipairs(lib.sorted_keys(stale)) do
    warnings[#warnings + 1] = ('%s: its file has changed; only results of its last text count')
      :format(policy)
  end
  return cells, order
end

--- ---- one metric -------------------------------------------------------------------------------

--- What tells two measurements of a policy in one context apart: without a trace of the seed in the
-- balance, a replay with another seed is the same one again.
local function mark_of(row, value)
  local imbalance = row.summary.imbalance or {}
  return ('%s %.17g %.17g %.17g'):format(row.context or '', imbalance.mean or 0,
    imbalance.max or 0, value)
end

--- Pairs of two policies: lists of values, what each pair is called, and how many pairs were left
-- out as repetitions.
local function pairs_of(metric, mine, theirs)
  local a, b, names, seen, repeated = {}, {}, {}, {}, 0
  for _, group in ipairs(lib.sorted_keys(mine)) do
    local x = metrics.value(metric, mine[group].summary)
    local y = theirs[group] and metrics.value(metric, theirs[group].summary)
    if x and y then
      local mark = mark_of(mine[group], x) .. mark_of(theirs[group], y)
      if seen[mark] then
        repeated = repeated + 1
      else
        seen[mark] = true
        a[#a + 1], b[#b + 1] = x, y
        names[#names + 1] = ('seed %s, run %d'):format(mine[group].seed or '-', mine[group].run)
      end
    end
  end
  return a, b, names, repeated
end

--- Mean share in which a policy's results are its own doing; nil where that is all of them.
local function in_force(cells)
  local shares, own = {}, true
  for _, group in ipairs(lib.sorted_keys(cells)) do
    local share = cells[group].summary.in_force
    shares[#shares + 1], own = share or 1, own and not share
  end
  return not own and statistics.mean(shares) or nil
end

--- 'no' if a policy's steps did not fit into the memory of their ranks, else nil.
local function fits(cells)
  for _, row in pairs(cells) do
    if row.summary.fits == 'no' then return 'no' end
  end
end

local function verdict_of(metric, s)
  if s.count < statistics.FEWEST then
    return ('too few pairs (%d of %d)'):format(s.count, statistics.FEWEST)
  end
  local lower = metric.better == 'lower'
  if s.high < 0 then return lower and 'better' or 'worse' end
  if s.low > 0 then return lower and 'worse' or 'better' end
  return 'no difference seen'
end

local function values_of(metric, cells)
  local values = {}
  for _, group in ipairs(lib.sorted_keys(cells)) do
    values[#values + 1] = metrics.value(metric, cells[group].summary)
  end
  return values
end

local function warn(warnings, policy, metric, s, names)
  for _, place in ipairs(s.outliers) do
    warnings[#warnings + 1] = ('%s, %s: %s is an outlier'):format(policy, metric.name, names[place])
  end
  if s.noisy and s.count >= statistics.FEWEST then
    warnings[#warnings + 1] = ('%s, %s: noise is larger than the difference; more seeds would tell')
      :format(policy, metric.name)
  end
end

--- A policy against the baseline.
local function compare_one(metric, policy, cells, baseline, warnings)
  local row = { policy = policy, values = #values_of(metric, cells[policy]),
    mean = statistics.mean(values_of(metric, cells[policy])) }
  local shares = {}
  for _, group in ipairs(lib.sorted_keys(cells[policy])) do
    shares[#shares + 1] = cells[policy][group].summary.share_of_ideal
  end
  row.share_of_ideal = #shares > 0 and statistics.mean(shares) or nil
  row.in_force, row.fits = in_force(cells[policy]), fits(cells[policy])
  if policy == baseline then
    row.verdict = 'baseline'
    return row
  end
  local mine, theirs, names, repeated = pairs_of(metric, cells[policy], cells[baseline])
  row.pairs, row.repeated = #mine, repeated
  if #mine == 0 then
    row.verdict = 'no pairs'
    return row
  end
  local differences = {}
  for i = 1, #mine do differences[i] = mine[i] - theirs[i] end
  local s = statistics.paired(differences)
  row.difference, row.low, row.high = s.mean, s.low, s.high
  local base = statistics.mean(theirs)
  row.relative = base ~= 0 and s.mean / math.abs(base) or nil
  row.verdict = policy_names.counts(row) and verdict_of(metric, s) or 'says nothing of it'
  warn(warnings, policy, metric, s, names)
  return row
end

--- The best policy, if it is ahead of the second best beyond doubt; else why there is none.
local function find_winner(metric, rows, cells)
  local sorted = {}
  for _, row in ipairs(rows) do
    local _, any = next(cells[row.policy])
    if any.summary.plans_on ~= 'known' and policy_names.counts(row) then
      sorted[#sorted + 1] = row
    end
  end
  if #sorted < 2 then return nil, 'one policy alone wins nothing' end
  local sign = metric.better == 'lower' and 1 or -1
  table.sort(sorted, function(a, b)
    return sign * a.mean < sign * b.mean or a.mean == b.mean and a.policy < b.policy
  end)
  local best, second = sorted[1].policy, sorted[2].policy
  local mine, theirs = pairs_of(metric, cells[best], cells[second])
  if #mine < statistics.FEWEST then
    return nil, ('%s and %s have %d pairs; a winner needs %d'):format(best, second, #mine,
      statistics.FEWEST)
  end
  local differences = {}
  for i = 1, #mine do differences[i] = mine[i] - theirs[i] end
  local s = statistics.paired(differences)
  if verdict_of(metric, s) ~= 'better' then
    return nil, ('%s and %s, the best two, do not differ beyond doubt'):format(best, second)
  end
  return { policy = best, over = second, difference = s.mean, low = s.low, high = s.high,
    pairs = s.count, relative = s.mean / math.abs(statistics.mean(theirs)) }
end

--- ---- all of it --------------------------------------------------------------------------------

--- Metrics by name, or those that results have of the usual ones.
local function choose_metrics(names, results)
  local chosen = {}
  for i, name in ipairs(names or {}) do chosen[i] = metrics.find(name) end
  if #chosen > 0 then return chosen end
  for _, metric in ipairs(metrics.list) do
    local found = metric.compared and #results > 0
    for _, row in ipairs(results) do found = found and metrics.value(metric, row.summary) end
    if found then chosen[#chosen + 1] = metric end
  end
  return chosen
end

local function choose_baseline(asked, order, cells)
  if asked and not cells[asked] then
    errors.usage("no results of baseline '%s'%s; there are: %s", asked, lib.hint(asked, order),
      table.concat(order, ', '))
  end
  for _, name in ipairs { asked or 'static', 'laer' } do
    if cells[name] then return name end
  end
  return order[1]
end

local function count_faults(cells, order, warnings)
  for _, policy in ipairs(order) do
    local faults = 0
    for _, group in ipairs(lib.sorted_keys(cells[policy])) do
      faults = faults + (tonumber(cells[policy][group].summary.faults) or 0)
    end
    local share = in_force(cells[policy])
    if share then
      local judged = policy_names.counts { in_force = share }
      warnings[#warnings + 1] = ('%s: %d faults; its own answers were in force for %.3g %% of the '
        .. 'splits%s'):format(policy, faults, 100 * share, judged and '' or ', so it is not judged')
    elseif faults > 0 then
      warnings[#warnings + 1] = ('%s: %d faults'):format(policy, faults)
    end
  end
end

--- Means of policies that were not measured in the same circumstances say nothing side by side.
local function count_circumstances(cells, order, baseline, warnings)
  local different = {}
  for _, policy in ipairs(order) do
    local same = true
    for group in pairs(cells[baseline]) do same = same and cells[policy][group] ~= nil end
    for group in pairs(cells[policy]) do same = same and cells[baseline][group] ~= nil end
    if not same then different[#different + 1] = policy end
  end
  if #different > 0 then
    warnings[#warnings + 1] = ('%s: not of the same scripts, traces, parameters and seeds as %s; '
      .. 'differences are of what they share, means are not comparable (--sweep, or run numbers, '
      .. 'choose)'):format(table.concat(different, ', '), baseline)
  end
end

--- What no policy beats, mean over the circumstances that policies were measured in.
local function ideal_of(metric, order, cells)
  local groups, values = {}, {}
  for _, policy in ipairs(order) do
    for group, result in pairs(cells[policy]) do
      groups[group] = groups[group] or {}
      table.insert(groups[group], result.summary)
    end
  end
  for _, group in ipairs(lib.sorted_keys(groups)) do
    values[#values + 1] = metrics.ideal(metric, groups[group])
  end
  return #values > 0 and statistics.mean(values) or nil
end

local function compare_metric(metric, order, cells, baseline, warnings)
  local entry = { metric = metric.name, better = metric.better, rows = {},
    ideal = ideal_of(metric, order, cells) }
  local repeated = 0
  for _, policy in ipairs(order) do
    if #values_of(metric, cells[policy]) > 0 then
      local row = compare_one(metric, policy, cells, baseline, warnings)
      entry.rows[#entry.rows + 1] = row
      repeated = math.max(repeated, row.repeated or 0)
    end
  end
  if repeated > 0 then
    warnings[#warnings + 1] = ('%s: %d pairs of other seeds are the same measurement again and do '
      .. 'not count'):format(metric.name, repeated)
  end
  entry.winner, entry.reason = find_winner(metric, entry.rows, cells)
  return entry
end

--- Names that policies are asked for by, as results call them.
local function called(results, asked)
  local list, of_text = {}, {}
  for _, row in ipairs(results) do of_text[row.text or row.policy] = row.policy end
  for i, name in ipairs(asked) do list[i] = of_text[name] or name end
  return list
end

--- Compares results (compare.results) by policy. options: baseline (default 'static', else 'laer',
-- else the first), metrics (names), policies (names: only these, and the references static and
-- laer). Returns { baseline, policies, metrics, warnings }; metrics is a list of { metric, better,
-- ideal, rows, winner or reason }. Raises USAGE.
-- : list of table, table -> table
function compare.policies(results, options)
  local warnings = {}
  local cells, order = newest(results, warnings)
  local asked = called(results, { options.baseline })[1]
  if options.policies then
    local only = {}
    for _, name in ipairs(called(results, { 'static', 'laer', unpack(options.policies) })) do
      only[name] = true
    end
    for i = #order, 1, -1 do
      if not only[order[i]] and order[i] ~= asked then table.remove(order, i) end
    end
  end
  local baseline = choose_baseline(asked, order, cells)
  local document = { baseline = baseline, policies = order, metrics = {}, warnings = warnings }
  count_faults(cells, order, warnings)
  count_circumstances(cells, order, baseline, warnings)
  for i, metric in ipairs(choose_metrics(options.metrics, results)) do
    document.metrics[i] = compare_metric(metric, order, cells, baseline, warnings)
  end
  return document
end

return compare

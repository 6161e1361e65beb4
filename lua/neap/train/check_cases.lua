-- SPDX-License-Identifier: Apache-2.0

--- The trainings of a check (train/check.lua), and how they are run: a case is a combination of
-- policy, split, schedule, shard group, ranks and so on.

local covering = require 'neap.base.covering'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local policies = require 'neap.policy'
local launch = require 'neap.train.launch'

local check_cases = {}

check_cases.RANKS = { 1, 2, 3, 4, 8 }
check_cases.SPLITS = { '', 'lite', 'even', 'local', 'minimax' } -- '': the policy's own
check_cases.SCHEDULES = {
  'none', 'laer', 'neap', 'laer:chunks=3,unshard_parts=2', 'neap:recompute=true',
  'laer:keep=3,unshard_ahead=2', 'eager:chunks=2,hold_combine=true,gradients=1',
}
check_cases.SHARD_GROUPS = { 'all', 'node', '2', '3', 'resident', 'resident:2' }

local FACTORS = { 'policy', 'split', 'schedule', 'shard_group', 'ranks', 'node_size', 'unequal',
  'spare', 'in_process' }

--- ---- cases -------------------------------------------------------------------------------------

--- A policy's text with another split than its own.
local function with_split(policy, split)
  if split == '' then return policy end
  local selection, list = policies.resolve(policy), {}
  for i, key in ipairs(lib.sorted_keys(selection.params)) do
    list[i] = key .. '=' .. selection.params[key]
  end
  return selection.file .. '+' .. split .. (#list > 0 and ':' .. table.concat(list, ',') or '')
end

local function case_of(values, options)
  local case = { device = options.device or 'cpu', deadline = options.deadline }
  for f, name in ipairs(FACTORS) do case[name] = values[f] end
  if (tonumber(case.shard_group) or 0) > case.ranks then case.shard_group = 'all' end
  local ep = tonumber(case.shard_group:match '^resident:(%d+)$')
  if ep and case.ranks % ep ~= 0 then case.shard_group = 'resident' end
  case.plain, case.policy = case.policy, with_split(case.policy, case.split)
  return case
end

--- Cases that cover all pairs of choices, or with every, all combinations. options: as check.run's.
function check_cases.list(options)
  local all = check_cases
  local factors = { options.policies, options.splits or all.SPLITS,
    options.schedules or all.SCHEDULES, options.shard_groups or all.SHARD_GROUPS,
    options.ranks or all.RANKS, { 2, 3 }, { true, false }, { 0, 1 }, { false, true } }
  if options.every then
    for f = 6, 9 do factors[f] = { factors[f][1] } end -- node_size, unequal, spare and in_process
  end
  local rows, cases = (options.every and covering.product or covering.rows)(factors), {}
  for i, row in ipairs(rows) do cases[i] = case_of(row, options) end
  return cases
end

--- What a case must agree with: the static layout on one rank.
function check_cases.reference(unequal, options)
  return case_of({ 'static', '', 'none', 'all', 1, 1, unequal, 0, true }, options)
end

--- A case with some choices changed.
function check_cases.changed(case, changes)
  local values = {}
  for f, name in ipairs(FACTORS) do values[f] = case[name] end
  values[1] = case.plain
  for f, name in ipairs(FACTORS) do
    if changes[name] ~= nil then values[f] = changes[name] end
  end
  return case_of(values, case)
end

--- For each policy and rank count, a case once more under another schedule: two runs of which the
-- layouts and splits must be the same. The first of those with the policy's own split, if there is
-- one, since another takes the place of a split hook.
function check_cases.twins(cases)
  local chosen, keys, list = {}, {}, {}
  for _, case in ipairs(cases) do
    local key = case.plain .. ' ' .. case.ranks
    if not chosen[key] then keys[#keys + 1] = key end
    if not chosen[key] or (chosen[key].split ~= '' and case.split == '') then chosen[key] = case end
  end
  for i, key in ipairs(keys) do
    local case = chosen[key]
    list[i] = check_cases.changed(case, { in_process = not case.in_process,
      schedule = case.schedule == 'none' and 'laer' or 'none' })
  end
  return list
end

--- ---- running them ------------------------------------------------------------------------------

local function read_all(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read '*a'
  file:close()
  os.remove(path)
  return text
end

--- What the rank that failed has told, { code, message }; others only saw it fail.
local function first_error(path, ranks)
  local found = { 'FAILED', 'it did not say why' }
  for rank = ranks - 1, 0, -1 do
    local code, message = (read_all(('%s.%d'):format(path, rank)) or ''):match '^(%S+) (.*)$'
    if code and (code ~= 'COMM' or found[1] == 'FAILED') then found = { code, message } end
  end
  return found
end

--- Trains cases that have the same ranks; results in their order. Where a training fails, its
-- result has the error, and those after it have none.
local function train(cases, ranks, options)
  local path, file = os.tmpname(), options.rank_file or launcher.home .. '/lua/neap/main/check.lua'
  local order = json.encode { device = options.device or 'cpu', path = path, cases = cases }
  local status = ranks == 1 -- under mpirun too: every process by itself
    and launcher.run_ranks(1, file, { order }) or launch.run(ranks, file, order)
  local results = {}
  for line in (read_all(path) or ''):gmatch '[^\n]+' do
    results[#results + 1] = json.decode(line)
  end
  if status ~= 0 then results[#results + 1] = { error = first_error(path, ranks) } end
  return results
end

--- Trains cases of any ranks: those of a rank count together. on_progress(done): perhaps nil.
-- Returns results by case: fingerprint.take's, { error = { code, message } } or nil.
function check_cases.train(cases, options, on_progress)
  local by_ranks, counts, results, done = {}, {}, {}, 0
  for _, case in ipairs(cases) do
    if not by_ranks[case.ranks] then
      by_ranks[case.ranks], counts[#counts + 1] = {}, case.ranks
    end
    local list = by_ranks[case.ranks]
    list[#list + 1] = case
  end
  table.sort(counts)
  on_progress = on_progress or function() end
  on_progress(0, #cases)
  for _, ranks in ipairs(counts) do
    local list = by_ranks[ranks]
    local trained = train(list, ranks, options)
    for i, case in ipairs(list) do results[case] = trained[i] end
    done = done + #list
    on_progress(done, #cases)
  end
  return results
end

return check_cases

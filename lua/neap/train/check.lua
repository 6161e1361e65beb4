-- SPDX-License-Identifier: Apache-2.0

--- Does it train right? Under any policy, split, schedule, shard group and number of ranks, exact
-- sums give the same losses and gradients to the bit. A check trains a small model in many of these
-- ways, compares each with the static layout on one rank, and says what the first difference is
-- due to.
--
--   local result = check.run { policies = { 'mine.lua' } }
--   print(check.text(result))

local check_cases = require 'neap.train.check_cases'
local errors = require 'neap.base.errors'
local fingerprint = require 'neap.train.fingerprint'

local check = {}

--- ---- comparing ---------------------------------------------------------------------------------

--- The first thing of the given kinds that differs between two results: { step, layer, what }, or
-- nil.
local function difference(result, other, kinds)
  for step, seen in ipairs(result) do
    for i, item in ipairs(seen) do
      if kinds[item[1]] and item[3] ~= other[step][i][3] then
        return { step = step - 1, layer = item[2], what = item[1] }
      end
    end
  end
end

local TRAINED, DECIDED = { loss = true, gradients = true }, { layout = true, split = true }

--- What makes a case differ, by changing one thing after the other: its policy's layouts, its
-- split, or neither, which is the engine. same(case): whether a case is as it should be.
local function blame(case, same)
  local function agrees(changes) return same(check_cases.changed(case, changes)) end
  if not agrees { policy = 'static', split = 'minimax' } then return 'engine' end
  return agrees { split = 'minimax' } and 'split' or 'policy'
end

--- Groups of results whose layouts and splits must be the same, since the counts are: all choices
-- but schedule, shard group and in_process are equal, and experts have the same homes, if any.
local function decisions_of(case)
  return table.concat({ case.policy, case.ranks, case.node_size, tostring(case.unequal),
    case.spare, case.shard_group:match '^resident.*$' or '' }, ' ')
end

--- Compares a case's result with the reference and with those of the same decisions.
local function judge(document, case, result, expected, decided)
  if result.error then
    document.failed = document.failed
      or { case = case, code = result.error[1], message = result.error[2] }
    return
  end
  document.trainings = document.trainings + 1
  local found = difference(result, expected, TRAINED)
  if found then
    document.differ = document.differ + 1
    found.case = case
    document.difference = document.difference or found
  end
  local key = decisions_of(case)
  local other = decided[key]
  decided[key] = other or result
  found = other and difference(result, other, DECIDED)
  if found then
    document.changing = document.changing or { case = case, step = found.step, layer = found.layer,
      what = found.what == 'layout' and 'policy' or 'split' }
  end
end

--- Trains and compares. options:
--   policies     texts, as --policies takes them
--   ranks, splits, schedules, shard_groups   lists to choose from; default: those above
--   every        all combinations instead of all pairs
--   device       'cpu' (default) or 'cuda'
--   deadline     seconds that a hook may run; default 10
--   rank_file    what the ranks run instead of main/check.lua: for tests
--   on_progress(done, total)
-- Returns { trainings, differ, difference = { case, step, layer, what, due_to } or nil, changing =
-- { case, step, layer, what } or nil (two runs that were decided differently), failed = { case,
-- code, message } or nil (of the first that ended, by a policy's fault for one), ok }.
function check.run(options)
  local references = { check_cases.reference(true, options),
    check_cases.reference(false, options) }
  local expected = check_cases.train(references, options)
  local by_unequal = {}
  for _, case in ipairs(references) do
    local result = expected[case]
    if not result or result.error then
      errors.plain('check: the static layout on one rank: %s', result and result.error[2]
        or 'it was not trained')
    end
    by_unequal[case.unequal] = result
  end
  local cases = check_cases.list(options)
  if not options.every then
    for _, case in ipairs(check_cases.twins(cases)) do cases[#cases + 1] = case end
  end
  local results, decided = check_cases.train(cases, options, options.on_progress), {}
  local document = { policies = options.policies, trainings = 0, differ = 0,
    steps = fingerprint.STEPS, layers = fingerprint.LAYERS }
  for _, case in ipairs(cases) do
    local result = results[case]
    if result then judge(document, case, result, by_unequal[case.unequal], decided) end
  end
  if document.difference then
    document.difference.due_to = blame(document.difference.case, function(case)
      local result = check_cases.train({ case }, options)[case]
      return not result.error and not difference(result, by_unequal[case.unequal], TRAINED)
    end)
  end
  document.ok = document.differ == 0 and not document.changing and not document.failed
  return document
end

--- ---- telling -----------------------------------------------------------------------------------

local function describe(case)
  return ('%s with the split %s, schedule %s, shard group %s, %d rank%s, %d per node, %s experts, '
    .. '%s'):format(case.plain, case.split == '' and 'of its own' or case.split, case.schedule,
    case.shard_group, case.ranks, case.ranks == 1 and '' or 's', case.node_size,
    case.unequal and 'unequal' or 'equal', case.in_process and 'in the rank' or 'in a worker')
end

local DUE = {
  engine = 'the engine: the static layout and the split minimax differ too',
  policy = "the policy's layouts: they are valid, and the split minimax differs under them too, so "
    .. 'please report it as a bug of Neap',
  split = "the split: the policy's layouts agree under the split minimax; it is valid, so please "
    .. 'report it as a bug of Neap',
}

local function place_of(found)
  return ('step %d%s'):format(found.step, found.layer >= 0 and ', layer ' .. found.layer or '')
end

--- The result in lines, for people.
function check.text(document)
  local lines, names = {}, table.concat(document.policies, ', ')
  if document.ok then
    return ('%s: %d trainings, one digest: losses and gradients of %d steps and %d layers are the '
      .. 'same to the bit'):format(names, document.trainings, document.steps, document.layers)
  end
  lines[1] = ('%s: %d trainings, %d DIFFER'):format(names, document.trainings, document.differ)
  local found = document.difference
  if found then
    lines[#lines + 1] = ('  %s differ at %s: %s'):format(found.what, place_of(found),
      describe(found.case))
    lines[#lines + 1] = '  it is due to ' .. DUE[found.due_to]
  end
  found = document.changing
  if found then
    lines[#lines + 1] = ('  the %s is not deterministic: two runs differ at %s: %s'):format(
      found.what, place_of(found), describe(found.case))
  end
  if document.failed then
    lines[#lines + 1] = ('  a training failed: %s (%s)'):format(document.failed.message,
      describe(document.failed.case))
  end
  return table.concat(lines, '\n')
end

--- The result as --json prints it: a row for each kind of trouble.
function check.document(document)
  local rows = {}
  for _, kind in ipairs { 'difference', 'changing', 'failed' } do
    if document[kind] then
      document[kind].kind = kind
      rows[#rows + 1] = document[kind]
    end
  end
  return { policies = document.policies, trainings = document.trainings,
    differ = document.differ, ok = document.ok, rows = rows }
end

--- Exit status: 0; 1 where results differ or a training failed; 3 where that is the policy's fault.
function check.status(document)
  local failed = document.failed
  if document.differ > 0 or (failed and failed.code ~= 'POLICY') then return 1 end
  return document.ok and 0 or 3
end

return check

-- SPDX-License-Identifier: Apache-2.0

--- Takes runs out of the run store for a report: entries with their curves, provenance, texts.

local compare = require 'neap.runs.compare'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local kept = require 'neap.runs.kept'
local lib = require 'neap.base.lib'
local entries = require 'neap.report.entries'
local groups = require 'neap.runs.groups'
local marks = require 'neap.runs.marks'
local metrics = require 'neap.runs.metrics'
local text_table = require 'neap.base.text_table'

local stored = {}

-- Facts of a run, in order; those that are JSON are shown a line each.
local FACTS = { 'command', 'state', 'seed', 'ranks', 'node_size', 'transport', 'device', 'engine',
  'git_commit', 'host', 'machine', 'libraries', 'corpora', 'parameters', 'error' }

--- Runs that options ask for: by tag, by sweep, by number, else the last one that has results, or
-- all of them to be told apart by a parameter.
local function choose(runs, args)
  if args.tag then
    local tagged, list = marks.tagged(runs, args.tag), {}
    for i, id in ipairs(lib.sorted_keys(tagged)) do list[i] = runs:runs('id = ?', id)[1] end
    return list
  end
  if args.sweep then
    local list = runs:runs("state = 'done' AND key IN (SELECT key FROM sweeps WHERE name = ?)",
      args.sweep)
    if #list == 0 then errors.usage("no run of the sweep '%s' in %s", args.sweep, runs.path) end
    return list
  end
  local list = {}
  for i, id in ipairs(args.run) do
    list[i] = runs:runs('id = ?', id)[1]
    if not list[i] then errors.usage('%s has no run %d; neap runs lists them', runs.path, id) end
  end
  if #list == 0 then
    local which = args.by and 'IN (SELECT run' or '= (SELECT max(run)'
    list = runs:runs('id ' .. which .. ' FROM results WHERE summary IS NOT NULL)')
    if #list == 0 then errors.usage('%s has no run with results yet', runs.path) end
  end
  return list
end

local function curves_of(runs, result)
  local steps = runs:rows('SELECT * FROM steps WHERE result = ? ORDER BY step', result)
  return metrics.curves(steps, steps[1] and steps[1].step)
end

--- Adds a text that the store keeps, once.
local function add_text(document, runs, name, hash)
  if not (name and hash) then return end
  for _, text in ipairs(document.texts) do
    if text[1] == name and text.hash == hash then return end
  end
  local found = runs:rows('SELECT body FROM texts WHERE sha256 = ?', hash)[1]
  if found then
    document.texts[#document.texts + 1] = { name, found.body, hash = hash }
  end
end

local function add_result(document, runs, run, row, group)
  local summary = kept.summary(row.summary, ('%s: result %d: summary'):format(runs.path, row.id))
  summary.policy, summary.seed = row.policy, row.seed
  local entry = entries.from_row(summary, run.kind)
  for name, curve in pairs(curves_of(runs, row.id)) do entry.curves[name] = curve end
  entry.group = group
  document.entries[#document.entries + 1] = entry
  for _, message in ipairs(summary.messages or {}) do
    document.messages[#document.messages + 1] = message
  end
  add_text(document, runs, row.policy_file, row.policy_sha256)
  if row.trace and not document.recorded then
    document.recorded = { path = row.trace, kind = run.kind,
      parameters = kept.facts(run.parameters or '{}', ('run %d: parameters'):format(run.id)) }
  end
end

local function add_facts(facts, run)
  local title = ('run %d'):format(run.id)
  facts[#facts + 1] = { title, text_table.date(run.started) .. (run.ended and ', took '
    .. text_table.duration(run.ended - run.started) or '') }
  if run.tags then facts[#facts + 1] = { title .. ': tags', table.concat(run.tags, ', ') } end
  if run.note then facts[#facts + 1] = { title .. ': note', run.note } end
  for _, name in ipairs(FACTS) do
    local value = run[name]
    local inner = type(value) == 'string' and value:match '^{'
      and kept.facts(value, ('%s: %s'):format(title, name))
    if inner then
      local parts = {}
      for i, key in ipairs(lib.sorted_keys(inner)) do
        local item = inner[key]
        parts[i] = key .. ' ' .. (type(item) == 'table' and json.encode(item) or tostring(item))
      end
      value = table.concat(parts, '; ')
    elseif name == 'git_commit' and value and run.git_dirty == 1 then
      value = value .. ', with changes'
    end
    if value ~= nil and value ~= '' then
      facts[#facts + 1] = { ('%s: %s'):format(title, name:gsub('_', ' ')),
        type(value) == 'number' and ('%g'):format(value) or value }
    end
  end
end

local MOST_FACTS = 8 -- runs whose circumstances are told; a sweep has many of the same

--- What compare.lua says about the runs, if they hold several policies: a list of documents, one
-- for each value of args.by.
local function compare_all(runs, list, args)
  local ids, found = {}, {}
  for i, run in ipairs(list) do ids[i] = run.id end
  local results = compare.results(runs, { runs = ids })
  local documents = args.by and groups.compare(runs, results, args.by, {})
    or { compare.policies(results, {}) }
  for _, document in ipairs(documents) do
    if #document.policies > 1 then found[#found + 1] = document end
  end
  return found
end

--- Adds the runs that the options ask for to a document; recorded: the first trace that one of them
-- replayed or wrote, as { path =, parameters =, kind = }.
function stored.add(document, runs, args)
  local list, shown = choose(runs, args), 0
  local values = args.by and groups.values(list, args.by)
  marks.add(runs, list)
  for i, run in ipairs(list) do
    local results = runs:rows('SELECT * FROM results WHERE run = ? AND summary IS NOT NULL '
      .. 'ORDER BY id', run.id)
    for _, row in ipairs(results) do
      add_result(document, runs, run, row, values and ('%s = %s'):format(args.by, values[run.id]))
    end
    if i <= MOST_FACTS then
      add_facts(document.facts, run)
      add_text(document, runs, run.script, run.script_sha256)
      shown = i
    end
  end
  if #list > shown then
    document.facts[#document.facts + 1] = { 'more runs', ('%d, in %s'):format(#list - shown,
      runs.path) }
  end
  document.comparisons, document.by_parameter = compare_all(runs, list, args), args.by
  document.subject = args.tag and 'tag ' .. args.tag or args.sweep and 'sweep ' .. args.sweep
    or #list == 1 and ('run %d'):format(list[1].id) or ('%d runs'):format(#list)
end

return stored

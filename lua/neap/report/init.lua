-- SPDX-License-Identifier: Apache-2.0

--- One HTML file that tells what runs and replays have shown. It needs no network and no scripts.

local session = require 'neap.policy.session'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local machine = require 'neap.base.machine'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local entries = require 'neap.report.entries'
local evaluate = require 'neap.replay.evaluate'
local page = require 'neap.report.page'
local policies = require 'neap.policy'
local progress = require 'neap.base.progress'
local replay = require 'neap.replay'
local sections = require 'neap.report.sections'
local timeline = require 'neap.report.timeline'
local store = require 'neap.runs.store'
local stored = require 'neap.report.stored'
local trace = require 'neap.engine.trace'

local report = {}

local POLICIES = { 'static', 'laer', 'laer+minimax' }

--- ---- results in JSON --------------------------------------------------------------------------

local function read(path)
  local file, why = io.open(path, 'rb')
  if not file then errors.plain('%s', why) end
  local text = file:read '*a'
  file:close()
  return text
end

local KINDS = { run = true, replay = true, simulate = true }

--- What has printed a document, of earlier versions too; nil: none of KINDS.
local function kind_of(result)
  if type(result) ~= 'table' then return nil end
  if result.command then return KINDS[result.command] and result.command end
  return result.policies and 'replay' or result.simulated and 'simulate' or result.rows and 'run'
end

--- Adds the rows of a file that neap run, replay or simulate --json has printed.
local function add_results(document, path)
  local result = json.decode(read(path))
  local kind = kind_of(result)
  local rows = kind and (result.rows or result.policies)
  if not rows then
    errors.usage('%s: no result of neap run --json, neap replay --json or neap simulate --json',
      path)
  end
  for _, row in ipairs(rows) do
    row.seed = row.seed or result.seed
    document.entries[#document.entries + 1] = entries.from_row(row, kind)
    for _, message in ipairs(row.messages or {}) do
      document.messages[#document.messages + 1] = message
    end
  end
  document.facts[#document.facts + 1] = { 'results', path }
end

--- ---- replaying --------------------------------------------------------------------------------

local function add_policy_text(document, text)
  local file = policies.resolve(text).file
  for _, other in ipairs(document.texts) do
    if other[1] == file then return end
  end
  document.texts[#document.texts + 1] = { file, read(file) }
end

--- Adds what a replay has found as an entry of its own.
local function add_entry(document, found, seed)
  local steps = {}
  for i, row in ipairs(found.steps) do steps[i] = metrics.values(metrics.complete(row)) end
  found.row.seed = seed
  local entry = entries.from_row(found.row, 'replay')
  entry.curves = metrics.curves(steps, 0)
  document.entries[#document.entries + 1] = entry
  for _, message in ipairs(found.messages) do
    document.messages[#document.messages + 1] = message
  end
end

local function observe_all(document, args, t, topology, warm_up)
  local seen = { moment = evaluate.hardest(t, warm_up), policies = {} }
  seen.heat = evaluate.heat(t, seen.moment.layer)
  local texts = #args.policy > 0 and args.policy or POLICIES
  local bar = progress.open(#texts * t.steps, 'report')
  for i, text in ipairs(texts) do
    local found = evaluate.policy { trace = t, topology = topology, policy = text,
      moment = seen.moment, warm_up = warm_up, seed = args.seed, deadline = args.deadline,
      strict = args.strict, in_process = args.in_process, trusted = args.trust_policies,
      on_step = function(step) bar:update((i - 1) * t.steps + step + 1, text) end }
    seen.policies[i] = found
    if not args.pictures_only then
      add_entry(document, found, args.seed)
      add_policy_text(document, text)
    end
  end
  bar:close()
  return seen
end

local function add_replay(document, args)
  session.check(args.policy, args.in_process, args.trust_policies)
  local t = trace.read(args.trace)
  local topology, warm_up = replay.open_topology(args, t), args.window or replay.WINDOW
  if t.steps <= warm_up then
    errors.usage('%s has %d steps; %d are needed to warm up and one to score', t.path, t.steps,
      warm_up)
  end
  document.trace, document.topology = t, topology
  document.observed = observe_all(document, args, t, topology, warm_up)
  local facts = document.facts
  facts[#facts + 1] = { 'trace', ('%s: %d steps, %d layers, %d ranks, %d experts'):format(t.path,
    t.steps, t.layers, t.ranks, t.experts) }
  facts[#facts + 1] = { 'topology', tostring(topology) }
  facts[#facts + 1] = { 'scored', ('from step %d on, seed %d'):format(warm_up, args.seed) }
  for _, key in ipairs(t.metadata_keys) do
    facts[#facts + 1] = { 'trace: ' .. key, t.metadata[key] }
  end
  document.subject = document.subject or t.path:match '[^/]*$'
end

--- Pictures for runs of the store: replays the trace that they replayed or wrote, if it is there,
-- under their policies. A trace that is gone or does not fit costs the pictures only.
local function add_pictures(document, args)
  local recorded, list = document.recorded, {}
  if not recorded then return end
  for i, entry in ipairs(entries.group(document.entries)) do list[i] = entry.policy end
  local parameters = recorded.parameters
  local replayed = recorded.kind == 'replay' and parameters or {}
  local ok, why = pcall(add_replay, document, { trace = recorded.path, policy = list,
    pictures_only = true, seed = parameters.seed or 0, window = replayed.window,
    slots = replayed.slots, node_size = replayed.node_size, cost = replayed.cost,
    speed = replayed.speed, deadline = args.deadline })
  if not ok then
    io.stderr:write(('neap: no pictures of loads and layouts: %s\n'):format(errors.text(why)))
  end
end

local function add_stored(document, args)
  local runs = store.existing(args)
  stored.add(document, runs, args)
  runs:close()
  if not args.trace then add_pictures(document, args) end
end

--- ---- the page ---------------------------------------------------------------------------------

local function add_circumstances(facts)
  for _, fact in ipairs(machine.facts()) do facts[#facts + 1] = fact end
  facts[#facts + 1] = { 'lua', jit.version }
end

local function find_references(list)
  local found = {}
  for _, name in ipairs { 'static', 'laer' } do found[#found + 1] = entries.find(list, name) end
  return found
end

--- What policies are ranked by: a metric in which pairs of runs have a winner, if there is one;
-- else time that was simulated, which has no noise; else the balance.
local function ranked_by(document)
  local ranking, comparison = {}, document.comparisons and document.comparisons[1]
  for _, metric in ipairs(metrics.list) do
    if metric.ranking and #entries.rank(document.entries, metric) > 0 then
      ranking[#ranking + 1] = metric
    end
  end
  for _, metric in ipairs(ranking) do
    for _, entry in ipairs(comparison and comparison.metrics or {}) do
      if entry.metric == metric.name and entry.winner then return metric end
    end
  end
  local simulated = document.entries[1] and document.entries[1].rows[1].simulated
  return simulated and ranking[1] or ranking[#ranking]
end

--- The page of a document as text; see sections.lua for what a document has.
-- : table, string? -> string
function report.render(document, title)
  document.entries = entries.group(document.entries)
  document.references = {}
  if not document.by_parameter then -- with one, entries are no rivals
    document.references = find_references(document.entries)
    document.by = ranked_by(document)
    document.best = document.by and entries.rank(document.entries, document.by)[1]
  end
  local names = {}
  for i, entry in ipairs(document.entries) do names[i] = entry.name end
  return page.render(title or ('Neap: %s'):format(document.subject or 'report'),
    table.concat(names, ' · '), sections.all(document), ('Made by neap %s.'):format(lib.version))
end

--- What a page is about: results in files, runs of the store, a replay, a timeline. args: as
-- neap report has them. Raises USAGE and I/O errors.
-- : table -> table
function report.collect(args)
  local document = { entries = {}, messages = {}, facts = {}, texts = {} }
  for _, path in ipairs(args.results) do add_results(document, path) end
  local from_store = #args.run > 0 or args.sweep or args.tag or not (args.trace or args.results[1])
  if from_store then add_stored(document, args) end
  if args.trace then add_replay(document, args) end
  document.timeline = args.timeline and timeline.read(args.timeline)
  if not from_store then add_circumstances(document.facts) end
  document.facts[#document.facts + 1] = { 'written', os.date '%Y-%m-%d %H:%M' }
  return document
end

return report

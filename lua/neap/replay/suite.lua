-- SPDX-License-Identifier: Apache-2.0

--- Policies on sets (suite_sets.lua): balance, tokens that cross nodes, what travels late, time of
-- plans, and simulated time of a step. The row of a policy on a set is the simulation's, with
-- set, cluster and share_of_balanced: the time of the same steps with force-balanced routing
-- (simulate/force_balanced.lua) over its own. That one is a row, too, and so are the steps of plain
-- expert parallelism: experts stay whole on their ranks, none has a second copy but where there are
-- fewer experts than ranks, nothing is restored. 'POLICY, resident' is a policy on such experts,
-- whose other slots are fetched from their homes.
--
-- Rows are kept in a file, a line each, so that a suite which has been stopped goes on.

local clusters = require 'neap.simulate.cluster'
local force_balanced = require 'neap.simulate.force_balanced'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local plan = require 'neap.engine.plan'
local provenance = require 'neap.runs.provenance'
local simulate = require 'neap.simulate'

local suite = {}

suite.BALANCED, suite.PLAIN = 'force-balanced', 'plain EP'

--- The degree of expert parallelism: the most ranks that have as many experts each, if there are
-- slots for so many; else all ranks, some of which have more than others.
local function degree_of(set)
  local a, b = set.ranks, set.experts
  while b > 0 do a, b = b, a % b end
  return set.experts / a <= set.slots and a or set.ranks
end

--- What a row is of: the policy's text, and where it is no policy's alone, other options.
local function parse(text, set)
  if text == suite.BALANCED then
    local slots, policy = force_balanced.reference(set.slots, set.ranks, set.experts, true)
    return policy, { routing = 'balanced', steps = 1, slots = slots }
  end
  local policy = text == suite.PLAIN and 'static' or text:match '^(.*), resident$'
  if not policy then return text, {} end
  local degree = degree_of(set)
  return policy, { shard_group = 'resident', ep = degree,
    slots = text == suite.PLAIN and math.ceil(set.experts / degree) or nil }
end

--- Every planner by the policy of its name, planning on history, and the exact split under LAER's
-- layouts; on the current counts the balancers whose sources plan on those, in their domain, of
-- sharded and of resident experts, and two of the others; neap as if loads were known; and neap and
-- late where they know what work across nodes costs on the cluster.
function suite.policies()
  local list = plan.names()
  for _, text in ipairs { 'laer+minimax', 'neap:far_price=cluster', 'late:far_price=cluster',
    'llep:on=current', 'moonep:on=current,domain=node', 'ultraep:on=current,domain=node',
    'fastermoe:on=current', 'maxtext:on=current', 'llep:on=current, resident',
    'moonep:on=current,domain=node, resident', 'ultraep:on=current,domain=node, resident',
    'fastermoe:on=current, resident', 'maxtext:on=current, resident', 'laer+minimax:on=current',
    'neap:on=current', 'neap:on=known' } do
    list[#list + 1] = text
  end
  return list
end

--- The policy's text of a row's.
function suite.policy_of(text)
  return text:match '^(.*), resident$' or text
end

--- One policy, or a baseline, on a set. o: seed, warm_up. Returns its row.
function suite.measure(set, text, o)
  local t, policy, more = set.open(), parse(text, set)
  local s = simulate.open {
    cluster = clusters.describe(set.cluster, { ranks = set.ranks, node_size = set.node_size }),
    model = set.model, distinct = math.min(t.layers, set.model.layers),
    slots = more.slots or set.slots, policy = policy, routing = more.routing,
    shard_group = more.shard_group, ep = more.ep, trace = t, seed = o.seed, warm_up = o.warm_up,
  }
  local row = s:run(more.steps or set.steps - o.warm_up)
  s:close()
  row.set, row.cluster, row.policy = set.name, set.cluster, text
  if text == suite.BALANCED or text == suite.PLAIN then row.name = text end
  if text ~= policy and row.name ~= text then row.name = row.name .. ', resident' end
  row.spent, row.distinct, row.messages = nil, nil, nil
  return row
end

--- What a row depends on, as text.
local function key_of(set, policy, o)
  local model = {}
  for _, name in ipairs(lib.sorted_keys(set.model)) do
    model[#model + 1] = name .. '=' .. tostring(set.model[name])
  end
  return provenance.sha256(table.concat({ set.name, set.cluster, set.ranks, set.node_size,
    set.slots, set.steps, policy, o.seed, o.warm_up, table.concat(model, ','), lib.version },
    ' ')):sub(1, 32)
end

--- Rows of an earlier call, by key. A last line that was being written is none.
local function read_rows(path)
  local rows, file = {}, io.open(path)
  if not file then return rows end
  for line in file:lines() do
    local entry = json.decode(line)
    if type(entry) == 'table' and entry.key then rows[entry.key] = entry.row end
  end
  file:close()
  return rows
end

--- All rows of sets x policies, in order; every set begins with BALANCED and PLAIN. o: seed,
-- warm_up, path (of the rows' file, or nil), on_row(done, total, row). Rows that the file has are
-- not measured again.
function suite.run(sets, policies, o)
  local known, rows = o.path and read_rows(o.path) or {}, {}
  local file = o.path and assert(io.open(o.path, 'a'))
  local total = #sets * (2 + #policies)
  local function add(set, policy, balanced_ms)
    local key = key_of(set, policy, o)
    local row = known[key]
    if not row then
      row = suite.measure(set, policy, o)
      row.share_of_balanced = (balanced_ms or row.step_ms) / row.step_ms
      if file then
        file:write(json.encode({ key = key, row = row }), '\n')
        file:flush()
      end
    end
    rows[#rows + 1] = row
    if o.on_row then o.on_row(#rows, total, row) end
    return row
  end
  for _, set in ipairs(sets) do
    local balanced_ms = add(set, suite.BALANCED).step_ms
    add(set, suite.PLAIN, balanced_ms)
    for _, policy in ipairs(policies) do add(set, policy, balanced_ms) end
    collectgarbage()
  end
  if file then file:close() end
  return rows
end

return suite

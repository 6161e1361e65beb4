-- SPDX-License-Identifier: Apache-2.0

--- How far are neap's layouts from the fewest tokens across nodes, loads known and balance perfect?
--
-- For some moments of each load set neap plans on the very loads, the exact split shares them out,
-- and an integer programme, solved by cbc (coinor-cbc), tells what share of the tokens has to cross
-- nodes at the least: every node gets whole replicas within its slots, a replica does at most what
-- a rank may, and no rank may do more than the mean. It knows nodes, not the ranks within, so it is
-- a bound, reached only if replicas can be packed; where cbc does not finish in time, its own bound
-- is taken. Costs and speeds have to be equal.
--
--   ./neap lua experiments/planning/share_optimum.lua [TRACE:SLOTS:NODE_SIZE | KIND@SEED …]
--
-- Costs: a minute of one core; text_e64 half of it.

local neap = require 'neap'
local kinds = require 'planning.kinds'
local launcher = require 'neap.launcher'
local plan = require 'neap.engine.plan'

local ffi = neap.lib.ffi
local MOMENTS, WARM_UP, SECONDS = 6, 5, 15
local DEFAULT = { 's01@11', 's02@11', 's03@11', 's42@11', 'quickstart.safetensors::',
  'moe_473m.csv.gz:10:4', 'esft_switch.csv.gz:10:4', 'text_e64.csv.gz:4:8' }

local function open(text)
  local kind, seed = text:match '^(.+)@(%d+)$'
  if kind then return kinds.open(kind, tonumber(seed)) end
  local path, slots, node = text:match '^(.-):(%d*):(%d*)$'
  path = path or text
  local trace = neap.trace.open(path:find '/' and path
    or launcher.home .. '/experiments/traces/' .. path)
  return { name = path:match '[^/]*$', trace = trace, topology = neap.topology.open {
    ranks = trace.ranks, experts = trace.experts,
    slots = tonumber(slots) or tonumber(trace.metadata.slots),
    node_size = tonumber(node) or tonumber(trace.metadata.node_size) or 8 } }
end

--- node_load[node][expert], from 0, and all tokens.
local function by_node(set, load)
  local t, nodes, all = set.topology, {}, 0
  for g = 0, t.nodes - 1 do
    nodes[g] = {}
    for e = 0, t.experts - 1 do nodes[g][e] = 0 end
  end
  for r = 0, t.ranks - 1 do
    for e = 0, t.experts - 1 do
      local count = tonumber(load[r * t.experts + e])
      local own = nodes[t:node_of(r)]
      own[e], all = own[e] + count, all + count
    end
  end
  return nodes, all
end

local function sum(list, format, ...)
  local parts = {}
  for _, item in ipairs(list) do parts[#parts + 1] = format:format(item, ...) end
  return table.concat(parts, ' + ')
end

--- The programme, as LP text. kG_E: replicas; nG_E: tokens of a node that stay; wG_E: its work.
local function programme(set, node_load, all)
  local t, rows, integers = set.topology, {}, {}
  local mean = all / t.ranks
  local function row(...) rows[#rows + 1] = (' c%d: '):format(#rows) .. string.format(...) end
  local near, experts = {}, {}
  for e = 0, t.experts - 1 do experts[e + 1] = e end
  for g = 0, t.nodes - 1 do
    local ranks, slots = t.first_rank[g + 1] - t.first_rank[g], 0
    for r = t.first_rank[g], t.first_rank[g + 1] - 1 do slots = slots + t:slots_of(r) end
    row('%s <= %d', sum(experts, 'k' .. g .. '_%d'), slots)
    row('%s <= %.9g', sum(experts, 'w' .. g .. '_%d'), mean * ranks)
    for _, e in ipairs(experts) do
      local name = g .. '_' .. e
      near[#near + 1], integers[#integers + 1] = 'n' .. name, 'k' .. name
      row('k%s <= %d', name, ranks)
      row('n%s - %.9g k%s <= 0', name, node_load[g][e], name)
      row('n%s <= %.9g', name, node_load[g][e])
      row('n%s - w%s <= 0', name, name)
      row('w%s - %.9g k%s <= 0', name, mean, name)
    end
  end
  for _, e in ipairs(experts) do
    local total, parts = 0, {}
    for g = 0, t.nodes - 1 do
      total, parts[g + 1] = total + node_load[g][e], ('w%d_%d'):format(g, e)
    end
    row('%s = %.9g', table.concat(parts, ' + '), total)
  end
  return ('Maximize\n obj: %s\nSubject To\n%s\nGeneral\n %s\nEnd\n'):format(
    table.concat(near, ' + '), table.concat(rows, '\n'), table.concat(integers, '\n '))
end

--- Most tokens that can stay, or cbc's bound; whether that is exact.
local function solve(text)
  local input = os.tmpname()
  local file = assert(io.open(input .. '.lp', 'w'))
  file:write(text)
  file:close()
  local pipe = assert(io.popen(('cbc %s.lp sec %d ratio 0.0005 solve 2>&1'):format(input, SECONDS)))
  local best, bound, solved, said
  for line in pipe:lines() do
    said, solved = line, solved or line:match '^Result %- Optimal'
    best = tonumber(line:match '^Objective value:%s*(%S+)') or best
    bound = tonumber(line:match '^Lower bound:%s*(%S+)' or line:match '^Upper bound:%s*(%S+)')
      or bound
  end
  pipe:close()
  os.remove(input)
  os.remove(input .. '.lp')
  assert(best or bound, 'cbc: is coinor-cbc installed? It said: ' .. tostring(said))
  return math.abs(bound or best), solved
end

--- Share across nodes and imbalance under neap, loads known.
local function planned(set, load)
  local t = set.topology
  local loads = ffi.new('double[?]', t.ranks * t.experts)
  for i = 0, t.ranks * t.experts - 1 do loads[i] = tonumber(load[i]) end
  local planner = plan.open('neap', t, { spread = 0 })
  local split = neap.split.open(t, 'minimax')
  split:compute(planner:plan(loads), load)
  local balance = split:balance()
  split:close()
  planner:close()
  return balance.inter_node / balance.tokens, balance.imbalance
end

local function line(text)
  local set = open(text)
  local trace, t = set.trace, set.topology
  local load = ffi.new('int64_t[?]', t.ranks * t.experts)
  local share, imbalance, least, exact = 0, 0, 0, 0
  for i = 0, MOMENTS - 1 do
    local step = WARM_UP + math.floor(i * (trace.steps - WARM_UP) / MOMENTS)
    load = trace:load(step, i % trace.layers, load)
    local node_load, all = by_node(set, load)
    local stays, whole = solve(programme(set, node_load, all))
    local s, m = planned(set, load)
    share, imbalance = share + s / MOMENTS, imbalance + m / MOMENTS
    least, exact = least + (1 - stays / all) / MOMENTS, exact + (whole and 1 or 0)
  end
  print(('| %s | %.4f | %.2f | %.2f | %.2f | %d of %d |'):format(set.name, imbalance, 100 * share,
    100 * least, 100 * (share - least), exact, MOMENTS))
  io.stdout:flush()
end

local texts = { ... }
print '| set | imbalance | neap, % across | at the least | points above | solved |'
print '|---|---|---|---|---|---|'
for _, text in ipairs(#texts > 0 and texts or DEFAULT) do line(text) end

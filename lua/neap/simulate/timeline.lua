-- SPDX-License-Identifier: Apache-2.0

--- A simulated step as a timeline: for viewers (profile/chrome_trace.lua takes what spans.of
-- gives), and on one screen.
--
--   chrome_trace.write('step.json', { { label = 'simulated', ranks = spans.of(cluster) } })
--   print(spans.text(cluster))

local text_table = require 'neap.base.text_table'
local timeline = require 'neap.engine.timeline'

local spans = {}

--- For every operation the set of ranks in which it is on the critical path.
local function critical_ranks(cluster)
  local marks, list = {}, cluster:critical()
  for _, item in ipairs(list) do
    marks[item.op] = marks[item.op] or {}
    marks[item.op][item.rank] = true
  end
  return marks, list
end

local function by_time(a, b)
  if a.begin ~= b.begin then return a.begin < b.begin end
  return a.finish < b.finish
end

local KNOWN = {}
for _, title in ipairs(timeline.names) do KNOWN[title] = true end

--- Name and phase that a measured step has for a span. Where ranks copy themselves what they
-- exchange, copies are spans of computation: of a phase or not as there, and for what a measured
-- step only waits for, a wait.
local function measured_as(kind)
  if kind.stream ~= 'compute' or KNOWN[timeline.title(kind)] then return kind.name, kind.phase end
  return KNOWN[kind.name] and kind.name or 'wait', nil
end

--- The spans of all ranks (or of the first so many), as timeline.lua describes them: waits of the
-- compute stream are spans of their own, the last one until the step ends, that of the optimizer
-- for what it needs but experts' gradients, as in a measured step; critical: on the critical path.
function spans.of(cluster, count)
  local marks, ranks = critical_ranks(cluster), {}
  count = math.min(count or cluster.topology.ranks, cluster.topology.ranks)
  for r = 1, count do
    ranks[r] = {}
    for i, wait in ipairs(cluster:waits(r - 1)) do
      local waiting = wait.op and cluster.spans[wait.op] or {}
      ranks[r][i] = { name = 'wait', stream = 'compute', begin = wait.begin, finish = wait.finish,
        waits_for = waiting.name ~= 'optimizer' and wait.waits_for or nil, layer = waiting.layer }
    end
  end
  for op = 0, #cluster.spans do
    local kind = cluster.spans[op]
    local begin, finish = cluster:times(op)
    local name, phase = measured_as(kind)
    for r = 1, count do
      table.insert(ranks[r], { name = name, phase = phase, stream = kind.stream,
        begin = begin[r - 1], finish = finish[r - 1], layer = kind.layer, micro = kind.micro,
        critical = marks[op] and marks[op][r - 1] })
    end
  end
  for r = 1, count do table.sort(ranks[r], by_time) end
  return ranks
end

--- Names of spans in order of their first use, and seconds by name: mean over ranks, and on the
-- critical path.
local function sum_up(cluster)
  local order, mean, path = {}, {}, {}
  for op = 0, #cluster.spans do
    local name = cluster.spans[op].name
    if not mean[name] then order[#order + 1], mean[name], path[name] = name, 0, 0 end
    mean[name] = mean[name] + (cluster:operation(op))
  end
  local _, list = critical_ranks(cluster)
  for i, item in ipairs(list) do
    local begin, finish = cluster:times(item.op)
    local name = cluster.spans[item.op].name
    local from = begin[item.rank]
    if i > 1 then -- an exchange that others delay begins when it is ready
      local _, before = cluster:times(list[i - 1].op)
      from = math.max(from, before[item.rank])
    end
    path[name] = path[name] + finish[item.rank] - from
  end
  return order, mean, path
end

--- Where a step's time goes, on one screen: spans by name, waits by stream, and what ends last.
function spans.text(cluster)
  local report, rows = cluster:report(), {}
  local order, mean, path = sum_up(cluster)
  local function row(name, seconds, critical)
    rows[#rows + 1] = { name, ('%.2f'):format(seconds * 1e3),
      ('%.1f %%'):format(100 * seconds / report.seconds),
      critical and ('%.2f'):format(critical * 1e3),
      critical and ('%.1f %%'):format(100 * critical / report.seconds) }
  end
  for _, name in ipairs(order) do row(name, mean[name], path[name]) end
  for _, stream in ipairs { 'tokens', 'unshard', 'reduce', 'late' } do
    row('exposed: wait for ' .. stream, report.exposed[stream])
  end
  row('exposed: wait for the end', report.exposed.other)
  local last = cluster.spans[report.last.op]
  return ('step of %.2f ms, ideal %.2f ms; last: %s%s on rank %d\n'):format(report.seconds * 1e3,
    report.ideal * 1e3, last.name, last.layer and ' of layer ' .. last.layer or '',
    report.last.rank) .. text_table.format({ 'span', 'mean ms', 'of step', 'critical ms',
    'of step' }, rows)
end

return spans

--- Results of runs as a text table and as a JSON document.

local series = require 'neap.base.series'
local text_table = require 'neap.base.text_table'

local summary = {}

local LN2 = math.log(2)

local HEADING = {
  'policy', 'tokens/s', '% of ideal', 'imbalance', 'p95', 'std %', 'inter-node %', 'tokens sent',
  'unshard', 'reduce', 'plan ms', 'split us', 'exposed %', 'faults', 'late', 'loss', 'bits/byte',
}

local function percent(share)
  return ('%.1f'):format(100 * share)
end

local function cells(row)
  local bytes = row.bytes_per_step
  return {
    row.policy, ('%.0f'):format(row.tokens_per_second),
    percent(row.tokens_per_second / row.ideal_tokens_per_second),
    ('%.3f'):format(row.imbalance.mean), ('%.3f'):format(row.imbalance.p95),
    ('%.1f'):format(row.std_percent), percent(row.inter_node_share),
    text_table.bytes(bytes.tokens), text_table.bytes(bytes.unshard), text_table.bytes(bytes.reduce),
    ('%.3f'):format(row.plan_ms.mean), ('%.0f'):format(row.split_us.mean), percent(row.exposed),
    row.faults, row.late, ('%.4f'):format(row.loss), ('%.3f'):format(row.loss / LN2),
  }
end

--- What no policy can beat: perfect balance, no token that leaves its node, nothing exposed; at the
-- rate that the processors' busy time alone would give.
local function ideal(rows)
  local rate = series.open()
  for _, row in ipairs(rows) do rate:add(row.ideal_tokens_per_second) end
  return { 'ideal', ('%.0f'):format(rate:mean()), '100.0', '1.000', '1.000', '0.0', '0.0', false,
    false, false, false, false, '0.0', false, false, false, false }
end

--- A row as the run store keeps it: without the losses, which the steps have.
function summary.stored(row)
  local copy = {}
  for name, value in pairs(row) do copy[name] = value end
  copy.losses, copy.bits_per_byte = nil, row.loss / LN2
  copy.share_of_ideal = row.tokens_per_second / row.ideal_tokens_per_second
  return copy
end

local function plain(row)
  local copy = summary.stored(row)
  copy.losses = {}
  for i = 1, row.losses.count do copy.losses[i] = row.losses[i] end
  return copy
end

local SIMULATED = { 'policy', 'step ms', '% of ideal', 'utilization %', 'exposed %', 'imbalance',
  'p95', 'std %', 'inter-node %', 'faults', 'late', 'bits/byte' }

--- The table of a training that was timed on a described cluster.
local function simulated(rows)
  local lines, least = {}, math.huge
  for i, row in ipairs(rows) do
    local sim = row.sim
    least = math.min(least, sim.ideal_ms)
    lines[i] = { row.policy, ('%.2f'):format(sim.step_ms), percent(sim.share_of_ideal),
      percent(sim.utilization), percent(sim.exposed), ('%.3f'):format(row.imbalance.mean),
      ('%.3f'):format(row.imbalance.p95), ('%.1f'):format(row.std_percent),
      percent(row.inter_node_share), row.faults, row.late, ('%.3f'):format(row.loss / LN2) }
  end
  lines[#lines + 1] = { 'ideal', ('%.2f'):format(least), '100.0', '100.0', '0.0', '1.000', '1.000',
    '0.0', '0.0', false, false, false }
  local sim = rows[1].sim
  return text_table.format(SIMULATED, lines) .. ('\n%d ranks, %d steps, seed %d. Trained on the '
    .. 'CPU; step ms to exposed %% are simulated: %s on %s.'):format(rows[1].ranks, rows[1].steps,
    rows[1].seed, sim.model or "the recipe's model", sim.cluster)
end

--- rows: what trainer:run returned. Returns { text =, json = }: a table with the ideal as last row
-- (bytes are a step's, of all ranks together), and { rows = {…} } with every loss.
function summary.training(rows)
  local lines, documents = {}, {}
  for i, row in ipairs(rows) do
    lines[i], documents[i] = cells(row), plain(row)
  end
  lines[#lines + 1] = ideal(rows)
  local first = rows[1]
  if first.sim then return { text = simulated(rows), json = { rows = documents } } end
  local footer = ('\n%d ranks, %d steps, seed %d. Bytes: of all ranks, a step. Loss: nats a byte, '
    .. 'mean of the last tenth.'):format(first.ranks, first.steps, first.seed)
  return { text = text_table.format(HEADING, lines) .. footer, json = { rows = documents } }
end

return summary

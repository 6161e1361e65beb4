--- Sections of a report that are numbers: summary, comparison, differences with their intervals.
-- sections.lua has the others.

local entries = require 'neap.report.entries'
local page = require 'neap.report.page'
local svg = require 'neap.draw.svg'

local numbers = {}

local REFERENCES = { static = true, laer = true }
local FEWEST_PAIRS = 5

local function percent(share, digits)
  return share and ('%.' .. (digits or 1) .. 'f %%'):format(100 * share)
end

--- A number with about four digits.
local function short(value)
  local text = (math.abs(value) >= 1000 and '%.0f' or '%.4g'):format(value)
  return (text:gsub('^-', '−'))
end

local function key_of(i)
  return ('<span class="key" style="background:%s"></span>'):format(
    svg.colours[(i - 1) % #svg.colours + 1])
end

--- ---- summary ----------------------------------------------------------------------------------

--- How much better a value is than another's, in percent; by: 'rate' or 'imbalance'.
local function gain(by, entry, other)
  if not (other and entry.figures[by] and other.figures[by]) then return nil end
  return (by == 'rate' and 1 or -1) * (entry.figures[by] / other.figures[by] - 1)
end

local function signed(share)
  return share and (('%+.1f %%'):format(100 * share):gsub('^-', '−'))
end

local function headline(by, best, others)
  local parts = {}
  for _, entry in ipairs(others) do
    if entry ~= best then
      parts[#parts + 1] = by == 'rate' and ('%.0f of %s'):format(entry.figures.rate, entry.name)
        or ('%.3f of %s'):format(entry.figures.imbalance, entry.name)
    end
  end
  local against = #parts > 0 and ', against ' .. table.concat(parts, ' and ') or ''
  if by == 'rate' then
    return ('%s is fastest: %.0f tokens a second%s.'):format(best.name, best.figures.rate,
      against)
  end
  return ('%s balances best: the fullest rank does %.3f times the mean%s.'):format(best.policy,
    best.figures.imbalance, against)
end

--- What compare.lua says about a metric in one sentence.
local function verdict_on(entry)
  local w, title = entry.winner, entry.metric:gsub('_', ' ')
  if not w then return ('%s: no winner; %s.'):format(title, entry.reason) end
  return ('%s: %s wins over %s by %s (95 %% interval %s to %s, %d pairs).'):format(title, w.policy,
    w.over, signed(w.relative) or short(w.difference), short(w.low), short(w.high),
    w.pairs)
end

--- What the numbers are worth.
local function caveat(document)
  local fewest = math.huge
  for _, entry in ipairs(document.entries) do fewest = math.min(fewest, entry.runs or 1) end
  if fewest < FEWEST_PAIRS then
    return ('No verdict: %d run%s of each policy. A difference counts when it holds on at least %d '
      .. 'pairs of runs on the same seed and data (neap sweep, then neap compare).'):format(fewest,
      fewest == 1 and '' or 's', FEWEST_PAIRS)
  end
  return ('Means over %d runs of each policy.'):format(fewest)
end

local function tile(value, label)
  return value and page.fill('<div class="card tile"><b>%s</b><span>%s</span></div>', value, label)
    or ''
end

local BETTER = { rate = { 'faster', 'slower' }, imbalance = { 'less imbalance', 'more imbalance' } }

local function tiles(document, by, best)
  local faults, f = 0, best.figures
  for _, entry in ipairs(document.entries) do faults = faults + (entry.figures.faults or 0) end
  local out = {}
  for i, other in ipairs(document.references) do
    local better = other ~= best and gain(by, best, other)
    out[i] = tile(better and percent(math.abs(better)), BETTER[by][better and better < 0 and 2 or 1]
      .. ' than ' .. other.name)
  end
  local share = f.ideal_rate and 'of the ideal rate' or 'of the work of a perfectly balanced step'
  return '<div class="tiles">' .. table.concat(out) .. tile(percent(f.share), share)
    .. tile(f.inter_node and percent(f.inter_node), 'of its tokens cross nodes')
    .. tile(('%d'):format(faults), 'faults of policies') .. '</div>'
end

function numbers.summary(document)
  local by, best = document.by, document.best
  if not best then return nil end
  local others = #document.references > 0 and document.references
    or entries.rank(document.entries, by)
  local lines, won = {}, false
  for i, entry in ipairs(document.comparison and document.comparison.metrics or {}) do
    lines[i] = page.fill('<p>%s</p>', verdict_on(entry))
    won = won or entry.winner ~= nil
  end
  if #lines == 0 then lines[1] = page.fill('<p>%s</p>', caveat(document)) end
  return { title = 'Summary', body = ('<div class="card verdict%s">'):format(won and '' or ' open')
    .. page.fill('<p>%s</p>', headline(by, best, others)) .. table.concat(lines) .. '</div>'
    .. tiles(document, by, best) }
end

--- ---- comparison -------------------------------------------------------------------------------

-- Columns: title, what an entry's figures show there (nil: nothing), and the figure that it is, for
-- those that entries are ranked by.
local COLUMNS = {
  { 'tokens/s', function(f) return f.rate and ('%.0f'):format(f.rate) end, 'rate' },
  { 'loss', function(f) return f.loss and ('%.4f'):format(f.loss) end },
  { 'imbalance', function(f) return f.imbalance and ('%.3f'):format(f.imbalance) end,
    'imbalance' },
  { 'p95', function(f) return f.p95 and ('%.3f'):format(f.p95) end },
  { 'max', function(f) return f.max and ('%.3f'):format(f.max) end },
  { 'std', function(f) return f.std_percent and ('%.1f %%'):format(f.std_percent) end },
  { 'share of ideal', function(f) return percent(f.share) end },
  { 'exposed', function(f) return percent(f.exposed) end },
  { 'inter-node', function(f) return percent(f.inter_node) end },
  { 'plan ms', function(f) return f.plan_ms and ('%.3f'):format(f.plan_ms) end },
  { 'split µs', function(f) return f.split_us and ('%.0f'):format(f.split_us) end },
  { 'late', function(f) return f.late and ('%d'):format(f.late) end },
  { 'faults', function(f) return f.faults and ('%d'):format(f.faults) end },
}

local function used_columns(list)
  local used = {}
  for _, column in ipairs(COLUMNS) do
    for _, entry in ipairs(list) do
      if column[2](entry.figures) then
        used[#used + 1] = column
        break
      end
    end
  end
  return used
end

--- The cells of a row; gains stand right of the figure that they are about.
local function cells(document, by, columns, first, cell, gain_over)
  local row = { first }
  for _, column in ipairs(columns) do
    row[#row + 1] = cell(column)
    if column[3] == by then
      for _, other in ipairs(document.references) do row[#row + 1] = gain_over(other) end
    end
  end
  return row
end

local function comparison_row(document, by, i, entry, columns)
  local row = cells(document, by, columns,
    key_of(i) .. svg.escape(entry.name) .. (entry.bound and ' (bound)' or ''),
    function(column) return column[2](entry.figures) or '–' end,
    function(other) return entry ~= other and signed(gain(by, entry, other)) or '–' end)
  row.class = entry == document.best and 'best' or REFERENCES[entry.policy] and 'reference' or nil
  return row
end

--- The row that no policy beats.
local function ideal_row(document, columns)
  local by, rate = document.by, nil
  for _, entry in ipairs(document.entries) do rate = rate or entry.figures.ideal_rate end
  local figures = { imbalance = 1, p95 = 1, max = 1, std_percent = 0, share = 1, rate = rate,
    exposed = 0 }
  local row = cells(document, by, columns, 'ideal',
    function(column) return column[2](figures) or '–' end, function() return '–' end)
  row.class = 'reference'
  return row
end

function numbers.comparison(document)
  if #document.entries == 0 then return nil end
  local by, columns = document.by, used_columns(document.entries)
  local rows, heading = {}, cells(document, by, columns, 'policy',
    function(column) return column[1] end,
    function(other) return 'better than<br>' .. svg.escape(other.name) end)
  for i, entry in ipairs(document.entries) do
    rows[i] = comparison_row(document, by, i, entry, columns)
  end
  rows[#rows + 1] = ideal_row(document, columns)
  return { title = 'Comparison', body = page.table(heading, rows) .. ('<p class="note">Imbalance: '
    .. 'work of the fullest rank / mean work, over steps and layers. Better: %s. Ideal: every rank '
    .. 'does the mean, and nothing waits for communication.</p>'):format(
    by == 'rate' and 'tokens a second' or 'the imbalance, in percent of the other') }
end

--- ---- differences ------------------------------------------------------------------------------

local function difference_row(entry, row)
  local interval = row.low and ('%s to %s'):format(short(row.low), short(row.high))
  return { svg.escape(entries.short(row.policy)), short(row.mean),
    row.pairs and ('%d'):format(row.pairs), row.difference and short(row.difference), interval,
    signed(row.relative), svg.escape(row.verdict),
    class = row.policy == (entry.winner and entry.winner.policy) and 'best' or nil }
end

--- Differences on the same seed and data, with how sure they are.
function numbers.differences(document)
  local comparison = document.comparison
  if not comparison then return nil end
  local parts = {}
  for i, entry in ipairs(comparison.metrics) do
    local rows = {}
    for j, row in ipairs(entry.rows) do rows[j] = difference_row(entry, row) end
    parts[i] = page.fill('<h3>%s (%s is better)</h3>', entry.metric:gsub('_', ' '), entry.better)
      .. page.table({ 'policy', 'mean', 'pairs', 'difference', '95 % interval', 'relative',
        'verdict' }, rows)
  end
  for _, warning in ipairs(comparison.warnings) do
    parts[#parts + 1] = page.fill('<p class="note">Warning: %s.</p>', warning)
  end
  return { title = 'Differences from ' .. comparison.baseline, body = '<p class="note">Pairs are '
    .. 'runs that differ in nothing but the policy.</p>' .. table.concat(parts) }
end

return numbers

-- SPDX-License-Identifier: Apache-2.0

--- neap watch: how runs go on, in the terminal.

local arguments = require 'neap.base.arguments'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local live = require 'neap.runs.live'
local metrics = require 'neap.runs.metrics'
local sweeps = require 'neap.runs.sweeps'
local text_table = require 'neap.base.text_table'

local command = { doc = 'Show in the terminal how runs go on.' }

command.examples = [[
Examples:
  neap watch                   the runs that go on, until none does
  neap watch 12                run 12, until it is over
  neap watch --once            as it is now
Into a pipe or file a block is written whenever something has changed.]]

function command.options(parser)
  parser:argument('run', 'number of a run (default: those that go on, else the last one)'):args '?'
    :convert(arguments.whole('run', 1))
  parser:option('--store', 'the run store (default: NEAP_STORE, else runs.db)'):argname('<file>')
  parser:option('--interval', 'seconds between two looks (default: 1)')
    :convert(arguments.whole('--interval', 1)):argname('<seconds>')
  parser:flag('--once', 'only once')
end

local BLOCKS = { '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█' }
local WIDTH = 24 -- characters of a small curve

--- A curve as a line of blocks; '' of fewer than two values.
local function spark(values)
  if #values < 2 then return '' end
  local low, high, out = math.huge, -math.huge, {}
  local width = math.min(WIDTH, #values)
  local means = {}
  for i = 1, width do
    local first, last = math.floor((i - 1) * #values / width) + 1, math.floor(i * #values / width)
    local sum = 0
    for j = first, last do sum = sum + values[j] end
    means[i] = sum / (last - first + 1)
    low, high = math.min(low, means[i]), math.max(high, means[i])
  end
  for i, value in ipairs(means) do
    local share = high > low and (value - low) / (high - low) or 0
    out[i] = BLOCKS[math.floor(share * (#BLOCKS - 1) + 0.5) + 1]
  end
  return table.concat(out)
end

local function title_of(runs, run)
  local done, total, left = live.progress(runs, run)
  local parts = { ('run %d, %s'):format(run.id, run.state),
    total and ('%d of %d steps'):format(done, total) or ('%d steps'):format(done) }
  if left then parts[#parts + 1] = text_table.duration(left) .. ' left' end
  if run.error then parts[#parts + 1] = run.error:match '^[^\n]*' end
  return table.concat(parts, ', ')
end

--- A run as text: how far it is, and the latest step of every policy.
local function show(runs, run)
  local list, count = live.metrics()
  local heading, rows = { 'policy', 'step' }, {}
  for i = 1, count do heading[i + 2] = list[i].title end
  heading[count + 3] = 'loss so far'
  for i, result in ipairs(live.results(runs, run)) do
    local last, loss = result.last or {}, live.curves(runs, result).loss
    rows[i] = { result.policy, last.step }
    for j = 1, count do
      local value = last[list[j].name]
      rows[i][j + 2] = value and metrics.show(list[j], value) or false
    end
    rows[i][count + 3] = loss and spark(loss.values) or false
  end
  local title = title_of(runs, run)
  return #rows > 0 and title .. '\n' .. text_table.format(heading, rows) or title
end

--- The runs to show; second: whether one of them goes on.
local function choose(runs, id)
  if id then
    local run = live.find(runs, id)
    if not run then errors.usage('run %d is not in %s; neap runs lists them', id, runs.path) end
    return { run }, run.state == 'running'
  end
  local all, list = live.list(runs), {}
  for _, run in ipairs(all) do
    if run.state == 'running' then table.insert(list, 1, run) end
  end
  if #list == 0 then return { all[1] }, false end
  return list, true
end

--- How far the sweeps of runs are: a line each.
local function show_sweeps(runs, list)
  local seen, lines = {}, {}
  for _, run in ipairs(list) do
    local found = run.sweep and not seen[run.sweep] and sweeps.read(runs, run.sweep)
    seen[run.sweep or ''] = true
    if found then
      local count = found.count
      lines[#lines + 1] = ('sweep %s, %d of %d runs done%s, %d running%s'):format(found.name,
        count.done, #found.cells, count.failed > 0 and (', %d failed'):format(count.failed) or '',
        count.running, found.left and (', %s left'):format(text_table.duration(found.left)) or '')
    end
  end
  return table.concat(lines, '\n')
end

--- Writes a text over the last one on a terminal: each line over the old one, so that nothing
-- flickers.
local function repaint(text)
  io.stdout:write('\27[H', (text:gsub('\n', '\27[K\n')), '\27[K\n\27[J')
end

--- Shows runs until none goes on.
function command.run(args)
  local runs, before = live.open(args), nil
  while true do
    local list, going_on = choose(runs, args.run)
    local parts = { show_sweeps(runs, list) }
    if parts[1] == '' then parts[1] = nil end
    for _, run in ipairs(list) do parts[#parts + 1] = show(runs, run) end
    local text = #parts > 0 and table.concat(parts, '\n\n') or 'no runs'
    if text ~= before then
      if not launcher.terminal(1) then
        print(text)
      else
        if not before then io.stdout:write '\27[2J' end
        repaint(text)
      end
      io.stdout:flush()
    end
    before = text
    if args.once or not going_on then return end
    launcher.sleep(args.interval or 1)
  end
end

return command

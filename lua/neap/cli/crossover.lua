-- SPDX-License-Identifier: Apache-2.0

--- neap crossover: when does it pay to restore experts from shards, and when do they better stay at
-- home? For a cluster and a model, over the number of experts, tokens and slots.

local arguments = require 'neap.base.arguments'
local clusters = require 'neap.simulate.cluster'
local crossover = require 'neap.sweep.crossover'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local outputs = require 'neap.base.outputs'
local progress = require 'neap.base.progress'
local routing = require 'neap.simulate.routing'
local schedules = require 'neap.nn.schedule'
local text_table = require 'neap.base.text_table'
local winners = require 'neap.draw.winners'

local command = { doc = 'Tell where resident experts, sharded ones or late replicas are fastest.' }

command.examples = [[
Examples:
  neap crossover --cluster h100x256 -n 64 --model moe-1.2b
  neap crossover --cluster h100x8 --model mine.lua --experts 64 --ep 1,2,4,8 --all
  neap crossover -n 32 --tokens 4096,16384 --keep parameters --picture map.svg --json
resident: every expert whole at home on one of --ep ranks, no slots to spare. fsep: sharded over all
ranks, restored into C = E / EP slots by planner neap on the history, and split exactly. late:
homes, and a quarter as many slots that MoonEP, UltraEP or LLEP fill after the counts are known.
With EP 1 every rank has all experts: resident is data parallelism, fsep is FSDP. Only rows that a
rank has memory for, with all layers of the model, can win.]]

local function numbers(name)
  return function(text)
    local list = {}
    for item in text:gmatch '[^,]+' do
      local number, why = arguments.whole(name, 1, 2 ^ 20)(item)
      if not number then return nil, why end
      list[#list + 1] = number
    end
    if #list == 0 then return nil, name .. ' is empty; it must be a list of numbers' end
    return list
  end
end

function command.options(parser)
  parser:option('--cluster', 'name or Lua file: ' .. table.concat(clusters.names(), ', '))
    :default 'h100x256'
  parser:option('--model', 'whose sizes are kept but for the experts, name or Lua file: '
    .. table.concat(lib.sorted_keys(models.known), ', ')):default 'moe-1.2b'
  parser:option('-n --ranks', "ranks, other than the cluster's")
    :convert(arguments.whole('-n', 1, 2 ^ 20))
  parser:option('--node-size', "ranks per node, other than the cluster's")
    :convert(arguments.whole('--node-size', 1, 2 ^ 20))
  parser:option('--experts', 'numbers of experts (default: 8,16,32,64,128,256,512)')
    :convert(numbers '--experts')
  parser:option('--tokens', 'of a rank in a micro-batch, numbers (default: 2048,8192,32768)')
    :convert(numbers '--tokens')
  parser:option('--micro-batches', "of a step, other than the model's")
    :convert(arguments.whole('--micro-batches', 1, 2 ^ 20))
  parser:option('--ep', 'ranks that share a set of all experts, numbers; sharded ones have E / EP '
    .. "slots (default: 1, a node's, and the most)"):convert(numbers '--ep')
  parser:option('--keep', 'as the model has it when experts are more: ffn, the size of each and '
    .. 'the number for a token; parameters, the size of all and the work for a token'):default 'ffn'
    :choices { 'ffn', 'parameters' }
  parser:option('--schedule', 'of transfers, as neap run takes it'):default 'neap'
  parser:option('--routing', 'as neap simulate takes it'):default 'chosen'
  parser:option('--unshard', 'how parameters travel: as they are, or in FP8'):default 'dtype'
    :choices { 'dtype', 'fp8' }
  parser:option('--dispatch', 'how tokens travel to their experts: as they are, or in FP8')
    :default 'dtype':choices { 'dtype', 'fp8' }
  parser:option('--layers', 'that are simulated, at most'):convert(arguments.whole('--layers', 1))
    :default '4'
  parser:option('--steps', 'to simulate'):convert(arguments.whole('--steps', 1)):default '1'
  parser:option('--seed', 'of routing and policies')
    :convert(arguments.whole('--seed', 0)):default '1'
  parser:flag('--all', 'a row for each way, not for each number of experts and tokens')
  parser:option('--picture', 'SVG file of who is fastest where'):argname '<file>'
  parser:flag('--json', 'results as JSON')
end

-- A lead that is less says nothing: the simulation is not as good as that.
local EVEN = 0.02

local function percent(share)
  return ('%.1f'):format(100 * share)
end

--- A cell's words for a system: time and degree, or that nothing fits.
local function best_cells(cell, name)
  local row = cell.best[name]
  if not row then return #cell.rows > 0 and 'none fits' or '-', '-' end
  return ('%.2f'):format(row.step_ms), tostring(row.degree)
end

local function summary_table(cells)
  local rows = {}
  for i, cell in ipairs(cells) do
    rows[i] = { tostring(cell.experts), tostring(cell.tokens) }
    for _, system in ipairs(crossover.systems) do
      local ms, degree = best_cells(cell, system.name)
      table.insert(rows[i], ms)
      table.insert(rows[i], degree)
    end
    table.insert(rows[i], cell.winner or '-')
    table.insert(rows[i], cell.lead and percent(cell.lead) or '-')
  end
  return text_table.format({ 'experts', 'tokens', 'resident ms', 'EP', 'fsep ms', 'E / C',
    'late ms', 'EP', 'fastest', 'by %' }, rows)
end

local function full_table(cells)
  local rows = {}
  for _, cell in ipairs(cells) do
    for _, row in ipairs(cell.rows) do
      rows[#rows + 1] = { tostring(row.experts), tostring(row.tokens), row.system, row.policy,
        tostring(row.degree), tostring(row.slots), ('%.2f'):format(row.step_ms),
        percent(row.share_of_ideal), ('%.1f'):format(row.memory.lean / 1e9),
        row.fits == 'no' and 'does not fit' or cell.best[row.system] == row and
          (cell.winner == row.system and 'fastest' or 'best of its kind') or '' }
    end
  end
  return text_table.format({ 'experts', 'tokens', 'system', 'policy', 'EP', 'slots', 'step ms',
    '% of ideal', 'lean GB', '' }, rows)
end

local function picture(args, o, cells)
  local by, series = {}, {}
  for _, cell in ipairs(cells) do by[cell.experts .. ' ' .. cell.tokens] = cell end
  for i, system in ipairs(crossover.systems) do
    series[i] = { name = system.name, title = system.name .. ': ' .. system.doc }
  end
  return tostring(winners.draw { title = ('Fastest on %s, %d ranks (simulated)'):format(
    args.cluster, o.machine.ranks), series = series, columns = o.experts, rows = o.tokens,
    column_title = 'experts', row_title = 'tokens a rank',
    note = ('%s, %s kept; %%: how much longer the next one takes; pale: less than %g %%'):format(
      args.model, o.keep, 100 * EVEN),
    cell = function(experts, tokens)
      local cell = by[experts .. ' ' .. tokens]
      local row = cell.winner and cell.best[cell.winner]
      return { winner = cell.winner, text = cell.winner or (#cell.rows > 0 and 'none fits' or '-'),
        detail = row and ('EP %d%s'):format(row.degree, cell.lead and (', +%.0f %%'):format(
          100 * cell.lead) or ', alone'),
        faint = cell.lead and cell.lead < EVEN,
        tip = row and ('%s, %.2f ms'):format(row.policy, row.step_ms) }
    end })
end

local KEYS = { 'experts', 'tokens', 'system', 'policy', 'degree', 'slots', 'step_ms',
  'share_of_ideal', 'imbalance', 'memory', 'fits', 'winner', 'lead' }

local function print_json(args, o, cells)
  local rows, verdicts = {}, {}
  for i, cell in ipairs(cells) do
    for _, row in ipairs(cell.rows) do rows[#rows + 1] = row end
    verdicts[i] = { experts = cell.experts, tokens = cell.tokens, winner = cell.winner,
      lead = cell.lead }
  end
  print(json.results('crossover', { cluster = args.cluster, model = args.model,
    ranks = o.machine.ranks, keep = o.keep, schedule = args.schedule, steps = o.steps,
    seed = o.seed, layers = o.layers, unshard = o.unshard, dispatch = o.dispatch,
    simulated = true, rows = rows, winners = verdicts }, KEYS))
end

local function ascending(list)
  table.sort(list)
  for i = #list, 2, -1 do
    if list[i] == list[i - 1] then table.remove(list, i) end
  end
  return list
end

function command.run(args)
  schedules.resolve(args.schedule)
  outputs.check('--picture', args.picture)
  local chosen = routing.describe(args.routing, args.model)
  local machine = clusters.describe(args.cluster,
    { ranks = args.ranks, node_size = args.node_size })
  if machine.node_size > machine.ranks then machine.node_size = machine.ranks end
  local o = { machine = machine, model = models.describe(args.model,
    { load = chosen.load, micro_batches = args.micro_batches }),
    experts = ascending(args.experts or { 8, 16, 32, 64, 128, 256, 512 }),
    tokens = ascending(args.tokens or { 2048, 8192, 32768 }), degrees = args.ep, keep = args.keep,
    schedule = args.schedule, routing = chosen.kind, steps = args.steps, seed = args.seed,
    layers = args.layers, unshard = args.unshard, dispatch = args.dispatch }
  local bar = progress.open(#o.experts * #o.tokens, 'crossover ')
  function o.progress(done, cell)
    bar:update(done, ('%d experts, %d tokens'):format(cell.experts, cell.tokens))
  end
  local cells = crossover.run(o)
  bar:close()
  local found = false
  for _, cell in ipairs(cells) do found = found or #cell.rows > 0 end
  if not found then
    errors.usage('--ep: none of these numbers divides both the %d ranks and a number of experts',
      machine.ranks)
  end
  if args.picture then outputs.write(args.picture, picture(args, o, cells)) end
  if args.json then return print_json(args, o, cells) end
  print(('simulated: %s with other numbers of experts (%s kept) on %s, %d ranks, schedule %s, '
    .. '%d layers, seed %d; routing %s'):format(args.model, o.keep, args.cluster, machine.ranks,
    args.schedule, o.layers, o.seed, chosen.text))
  for _, name in ipairs { 'unshard', 'dispatch' } do
    if args[name] == 'fp8' then print(('%s: FP8'):format(name)) end
  end
  print((args.all and full_table or summary_table)(cells))
end

return command

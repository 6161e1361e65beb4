-- SPDX-License-Identifier: Apache-2.0

--- What the scripts of experiments/paper share: the published figures, the systems that are
-- compared (as settings of neap.simulate), and how results are averaged and put out.

local programs = require 'neap.base.programs'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local memory = require 'neap.train.simulated_memory'
local models = require 'neap.simulate.models'
local series = require 'neap.base.series'
local routing = require 'neap.simulate.routing'
local simulate = require 'neap.simulate'
local text_table = require 'neap.base.text_table'

local paper = {}

--- Step time, ms, of the published result files (wikitext, no auxiliary loss).
paper.published = {
  ['mixtral-8x7b-e8k2'] = { ['fsdp+ep'] = 35661, flexmoe = 28513, laer = 26325, megatron = 43378 },
  ['mixtral-8x7b-e16k4'] = { ['fsdp+ep'] = 27791, flexmoe = 24714, laer = 18848, megatron = 25982 },
  ['qwen-8x7b-e8k2'] = { ['fsdp+ep'] = 35767, flexmoe = 28977, laer = 25643, megatron = 43413 },
  ['qwen-8x7b-e16k4'] = { ['fsdp+ep'] = 27819, flexmoe = 25029, laer = 18874, megatron = 25880 },
}

--- Max / mean tokens of a rank, mean of all counts, and seconds of a step (exchange of tokens with
-- waiting, experts, in all), by kind of model.
paper.balance = {
  e16k4 = { ['fsdp+ep'] = 1.73, flexmoe = 1.66, laer = 1.27 },
  e8k2 = { ['fsdp+ep'] = 1.66, flexmoe = 1.48, laer = 1.38 },
}
--- Of the static layout on e16k4 in micro-batches 1 to 9.
paper.balance_first = 1.62
--- The same in the last ten of the micro-batches that were counted (29 of e16k4, 9 of e8k2).
paper.balance_later = { e16k4 = { ['fsdp+ep'] = 1.84, flexmoe = 1.73, laer = 1.21 }, e8k2 = {} }
paper.breakdown = {
  e16k4 = { ['fsdp+ep'] = { 11.66, 9.03, 28.14 }, flexmoe = { 9.23, 9.00, 24.82 },
    laer = { 4.35, 9.02, 19.36 } },
  e8k2 = { ['fsdp+ep'] = { 14.73, 11.85, 38.01 }, flexmoe = { 11.42, 11.80, 32.97 },
    laer = { 8.45, 11.74, 29.55 } },
}
--- Step time, ms, of mixtral-8x7b-e8k2 without a part of LAER.
paper.ablation = { laer = 26325, no_even = 28333, no_comm_opt = 28592, no_pq = 31700,
  ['fsdp+ep'] = 35661 }

--- Names of the paper's models.
paper.published_shapes = {}
for _, name in ipairs(models.paper) do paper.published_shapes[name] = true end

paper.methods = { 'fsdp+ep', 'flexmoe', 'laer', 'megatron', 'neap-equal', 'neap' }
--- Those whose ratios to LAER are predictions that this project stands by. Megatron's routing, and
-- what its program does besides, is not known.
paper.claimed = { 'fsdp+ep', 'flexmoe' }

--- The model of the same kind whose published ratios are the guess that a prediction is compared
-- with; nil for that model.
function paper.null_model(model)
  local same = 'mixtral-8x7b-' .. (model:match 'e%d+k%d+$' or '')
  return same ~= model and paper.published[same] and same or nil
end

--- Published step time of a system / LAER's, or nil.
function paper.published_ratio(model, method)
  local of = paper.published[model]
  return of and of[method] and of[method] / of.laer
end

local FLEXMOE = lib.home .. '/experiments/paper/policies/published_flexmoe.lua'

-- The published order of exchanges; tokens travel back when all gradients are computed.
local PUBLISHED = 'laer:hold_combine=true'

-- The published comparison runs the static layout, FlexMoE's and LAER's in one system: the same
-- exchanges in the same order, the same kernels. Only the layouts differ.
local SYSTEMS = {
  ['fsdp+ep'] = function() return { policy = 'static', schedule = PUBLISHED } end,
  flexmoe = function() return { policy = FLEXMOE, schedule = PUBLISHED } end,
  laer = function() return { policy = 'laer', schedule = PUBLISHED } end,
  ['laer+minimax'] = function() return { policy = 'laer+minimax', schedule = PUBLISHED } end,
  -- TP x EP: attention of a sequence on a group of ranks, experts at home on 8, fused elementwise
  -- code, as many tokens of a rank in a micro-batch as its heads leave room for. Gradients travel
  -- in fp32, since a sum made in the network has the type that travels.
  megatron = function(m, machine)
    local group = math.min(8, machine.ranks)
    local tensor = math.min(machine.node_size, m.top_k == 2 and 8 or 4)
    return { policy = 'static', schedule = 'eager:hold_combine=true', resident = true,
      slots = math.ceil(m.experts / group), tensor = tensor, parts = math.max(1, tensor / 4),
      token_group = group, gradient_bytes = 4, accumulate = true, elementwise = 0.5 }
  end,
  -- neap with the memory that the published system has: its schedule, its buffers, and every layer
  -- computed again with all that travels; then with all that it can keep.
  ['neap-equal'] = function() return { policy = 'neap', schedule = PUBLISHED } end,
  neap = function() return { policy = 'neap', schedule = 'neap:recompute=true' } end,
}

--- Routing of the paper's models: fitted on published counts alone (fit.lua says how, and fits them
-- again), never on a time.
paper.fitted, paper.load = routing.fitted, routing.load

-- Layers with routing of their own: others repeat them, and seeds are many.
local LAYERS = 8

-- Megatron is another program with a training of its own, whose routing nobody has published.
local ROUTING = { megatron = 'counted' }

--- Settings of a system for simulate.open. Raises USAGE for an unknown one.
function paper.system(method, model, machine)
  local make = SYSTEMS[method]
  if not make then
    errors.usage("unknown method '%s'%s; known are %s", method,
      lib.hint(method, lib.sorted_keys(SYSTEMS)), table.concat(lib.sorted_keys(SYSTEMS), ', '))
  end
  return make(model, machine)
end

--- Adds a share of all numbers of a row, and of tables in it.
local function add(sum, row, share)
  for key, value in pairs(row) do
    if type(value) == 'number' then
      sum[key] = (sum[key] or 0) + value * share
    elseif type(value) == 'table' then
      sum[key] = add(sum[key] or {}, value, share)
    end
  end
  return sum
end

--- The larger of two accounts of memory, nil among them.
local function larger(a, b)
  return a and a.lean > b.lean and a or b
end

--- The row of simulate:run, means over seeds 1 to seeds, step_ms_of, a list of those of each, and
-- lean_gb and engine_gb, the memory of a rank at its fullest (simulated_memory.lua). settings: of
-- simulate.open.
function paper.average(settings, steps, seeds)
  local sum, list, most = {}, {}, nil
  for seed = 1, seeds do
    settings.seed = seed
    local s = simulate.open(settings)
    local row = s:run(steps)
    list[seed] = row.step_ms
    add(sum, row, 1 / seeds)
    most = larger(most, memory.of(s.options, row.imbalance.max))
    s:close()
  end
  sum.step_ms_of = list
  -- Megatron's experts, cut by tensor parallelism as they are, have no account of their memory.
  if not settings.resident then sum.lean_gb, sum.engine_gb = most.lean / 1e9, most.engine / 1e9 end
  return sum
end

--- Of ratios of two lists, seed by seed: the 5th and the 95th percentile.
function paper.interval(list, base)
  local ratios = series.open()
  for i, value in ipairs(list) do ratios:add(value / base[i]) end
  return ratios:quantile(0.05), ratios:quantile(0.95)
end

--- A model, with the routing that a system meets; when: a name that paper.load knows.
local function routed(model, method, when)
  if type(model) ~= 'string' or not paper.published_shapes[model] then
    return models.describe(model)
  end
  return models.describe(model,
    { load = paper.load(model:match 'e%d+k%d+$', when or ROUTING[method] or 'timed') })
end

--- A system on a cluster: average's figures. run: steps and seeds. changes: settings that differ
-- from the system's, and for the paper's models routing (default: timed; counted for megatron).
function paper.score(method, cluster, model, run, changes)
  changes = changes or {}
  local machine = require('neap.simulate.cluster').describe(cluster)
  local shape = routed(model, method, changes.routing)
  local settings = paper.system(method, shape, machine)
  settings.cluster, settings.model = machine, shape
  settings.distinct = math.min(LAYERS, shape.layers)
  for name, value in pairs(changes) do settings[name] = value end
  settings.routing = nil
  return paper.average(settings, run.steps, run.seeds)
end

--- The models that --model names: one, a list with commas, or all six of the paper.
function paper.models(text)
  if text == 'all' then return models.paper end
  local list = {}
  for name in text:gmatch '[^,]+' do
    models.describe(name)
    list[#list + 1] = name
  end
  return list
end

-- A layer of many small experts; few layers, since all are alike.
local SMALL = { hidden = 2048, ffn = 1408, experts = 64, top_k = 8, slots = 4, layers = 4,
  heads = 16, kv_heads = 16, sequence = 4096, tokens = 16384, micro_batches = 1,
  load = { sigma = 1.0, tau = 0.7, rho = 0.989 } }

--- A model of many small experts, with fields changed.
function paper.small(changes)
  return models.describe(SMALL, changes)
end

--- Parameters that every script offers.
paper.params = {
  cluster = { default = 'a100x32', doc = 'name or file of a cluster' },
  steps = { default = 3, min = 1, integer = true, doc = 'steps to simulate, for each seed' },
  seeds = { default = 20, min = 1, integer = true, doc = 'seeds of the routing to average over' },
  out = { default = '', doc = "folder for table, numbers and plot; '' for none" },
}

--- ---- output -----------------------------------------------------------------------------------

local function write(path, text)
  local file, why = io.open(path, 'w')
  if not file then errors.plain('%s', why) end
  file:write(text)
  file:close()
end

--- A bar chart by gnuplot: groups of bars, one bar for each series. data: lists of a group's name
-- and numbers.
local function plot(path, chart)
  local lines = {}
  for _, row in ipairs(chart.data) do
    local cells = { ('"%s"'):format(row[1]) }
    for i = 2, #chart.series + 1 do cells[i] = row[i] and ('%.6g'):format(row[i]) or 'NaN' end
    lines[#lines + 1] = table.concat(cells, ' ')
  end
  local plots = {}
  for i, name in ipairs(chart.series) do
    plots[i] = ('$data using %d:xtic(1) title "%s"'):format(i + 1, name)
  end
  local style = chart.lines and 'set style data linespoints'
    or 'set style data histograms; set style histogram clustered; set style fill solid 0.8'
  programs.feed('gnuplot', 'gnuplot-nox', ([[
$data << EOD
%s
EOD
set terminal svg size 860,420 font "sans,12" noenhanced
set output "%s"
%s
set title "%s"
set ylabel "%s"
set key outside top horizontal
set xtics rotate by -20
set grid ytics
set yrange [0:*]
plot %s
]]):format(table.concat(lines, '\n'), path, style, chart.title, chart.unit,
    table.concat(plots, ', ')))
end

--- The chart as a file, or, where gnuplot is missing, a line that says so: a page that has an older
-- picture keeps it.
local function draw(job, path, chart)
  local ok, err = pcall(plot, path, chart)
  if not ok then job:say(('%s stays as it is: %s'):format(path, errors.describe(err))) end
end

--- Reports a result: heading and rows for the table, a note below, document for JSON, and chart =
-- { title=, unit=, series=, data= } for the plot. With --out it also leaves NAME.md, NAME.json and
-- NAME.svg there.
function paper.report(job, name, result)
  local text = text_table.format(result.heading, result.rows)
  if result.note then text = text .. '\n\n' .. result.note end
  local folder = job.params.out
  if folder ~= '' then
    programs.run('mkdir -p ' .. programs.quote(folder), 'coreutils')
    write(('%s/%s.md'):format(folder, name), paper.markdown(result))
    write(('%s/%s.json'):format(folder, name), json.encode(result.document) .. '\n')
    if result.chart then draw(job, ('%s/%s.svg'):format(folder, name), result.chart) end
  end
  job:report { text = text, json = result.document }
end

--- A text in lines of at most 100 columns.
local function wrap(text)
  local lines, line = {}, nil
  for word in text:gmatch '%S+' do
    if line and #line + 1 + #word > 100 then lines[#lines + 1], line = line, nil end
    line = line and line .. ' ' .. word or word
  end
  lines[#lines + 1] = line
  return table.concat(lines, '\n')
end

--- The table as Markdown, with the note.
function paper.markdown(result)
  local lines = { '| ' .. table.concat(result.heading, ' | ') .. ' |',
    '|' .. ('---|'):rep(#result.heading) }
  for _, row in ipairs(result.rows) do
    local cells = {}
    for i = 1, #result.heading do
      local value = row[i]
      cells[i] = (value == nil or value == false) and '-' or tostring(value)
    end
    lines[#lines + 1] = '| ' .. table.concat(cells, ' | ') .. ' |'
  end
  local note = result.note and '\n' .. wrap(result.note) .. '\n' or ''
  return table.concat(lines, '\n') .. '\n' .. note
end

--- What a row of figures is in JSON.
function paper.figures(method, model, figures)
  return {
    model = model, method = method, step_ms = figures.step_ms, ideal_ms = figures.ideal_ms,
    utilization = figures.utilization, exposed = figures.exposed, imbalance = figures.imbalance,
    std_percent = figures.std_percent, inter_node_share = figures.inter_node_share,
    lean_gb = figures.lean_gb, engine_gb = figures.engine_gb,
    share_of_ideal = figures.share_of_ideal, step_ms_of = figures.step_ms_of, simulated = true,
  }
end

return paper

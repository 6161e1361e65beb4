-- SPDX-License-Identifier: Apache-2.0

--- neap bench predict: simulated against measured time of a training step on this machine. Each
-- number of ranks is calibrated first (lua/neap/calibrate), on other models than the one predicted;
-- then the whole step and its spans are compared.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local measure = require 'neap.calibrate.measure'
local run = require 'neap.cli.run'
local text_table = require 'neap.base.text_table'

local bench = { doc = "Simulated against measured time of the quickstart's step.", cuda = true }

bench.options = {
  ranks = { default = { 2, 4, 8 }, doc = 'numbers of ranks; they share processors, or a GPU' },
  steps = { default = 24, min = 1, integer = true, doc = 'training steps to measure' },
}
for _, name in ipairs(measure.sizes) do
  bench.options[name] = { default = 0, min = 0, integer = true,
    doc = "of the model whose step is predicted; 0: the quickstart's" }
end

local function predict(ranks, args)
  local path, p = os.tmpname(), args.params
  local params = { out = path, steps = tostring(p.steps), predict = 'true' }
  for _, name in ipairs(measure.sizes) do params[name] = tostring(p[name]) end
  local status = run.run { recipe = launcher.home .. '/lua/neap/calibrate/recipe.lua',
    ranks = ranks, node_size = math.max(1, math.floor(ranks / 2)), device = args.device,
    no_store = true, params = params }
  local file = io.open(path)
  local text = file and file:read '*a'
  if file then file:close() end
  os.remove(path)
  if status ~= 0 then return nil, status end
  return json.decode(text)
end

local function print_table(list)
  local rows = {}
  for i, r in ipairs(list) do
    rows[i] = { r.ranks, ('%.2f'):format(r.measured_ms), ('%.1f'):format(100 * r.noise),
      ('%.2f'):format(r.predicted_ms), ('%+.1f'):format(100 * (r.ratio - 1)),
      ('%.2f'):format(r.machine.flops / 1e9), ('%.2f'):format(r.machine.memory / 1e9),
      ('%.2f'):format(r.machine.port / 1e9), ('%.1f'):format(r.machine.latency * 1e6) }
  end
  print(text_table.format({ 'ranks', 'measured ms', 'noise %', 'predicted ms', 'off by %',
    'GFLOP/s per rank', 'GB/s per rank', 'GB/s per port', 'latency us' }, rows))
end

--- Every span's error, a column for each number of ranks.
local function print_spans(list)
  local heading, index, rows = { 'span, ms measured and predicted' }, {}, {}
  for i, r in ipairs(list) do
    heading[i + 1] = r.ranks .. ' ranks'
    for _, span in ipairs(r.spans) do
      local row = index[span.span] or { span.span }
      if not index[span.span] then rows[#rows + 1], index[span.span] = row, row end
      row[i + 1] = ('%.2f %.2f %+.0f %%'):format(span.measured_ms, span.predicted_ms,
        100 * (span.predicted_ms / span.measured_ms - 1))
    end
  end
  for _, row in ipairs(rows) do
    for i = 2, #list + 1 do row[i] = row[i] or '' end
  end
  print('\n' .. text_table.format(heading, rows))
end

--- args: the options by name. Prints a table, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local list = {}
  for i, ranks in ipairs(args.params.ranks) do
    local result, status = predict(ranks, args)
    if not result then return status end
    result.ratio = result.predicted_ms / result.measured_ms
    list[i] = result
  end
  if args.json then
    print(json.results('bench', { bench = 'predict', device = args.device, rows = list }))
  else
    print_table(list)
    print_spans(list)
  end
end

return bench

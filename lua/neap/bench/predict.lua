--- neap bench predict: simulated against measured time of the quickstart's training step on this
-- machine. Each number of ranks is calibrated first (lua/neap/calibrate), on another model.

local json = require 'neap.json'
local launcher = require 'neap.launcher'
local run = require 'neap.cli.run'
local text_table = require 'neap.table'

local bench = { doc = "Simulated against measured time of the quickstart's step." }

bench.options = {
  ranks = { default = { 2, 4, 8 }, doc = 'numbers of ranks' },
  steps = { default = 24, min = 1, integer = true, doc = 'training steps to measure' },
}

local function measure(ranks, steps)
  local path = os.tmpname()
  local status = run.run { recipe = launcher.home .. '/lua/neap/calibrate/recipe.lua',
    ranks = ranks, node_size = math.max(1, math.floor(ranks / 2)), device = 'cpu', no_store = true,
    params = { out = path, steps = tostring(steps), predict = 'true' } }
  local file = io.open(path)
  local text = file and file:read '*a'
  if file then file:close() end
  os.remove(path)
  if status ~= 0 then return nil, status end
  return json.decode(text)
end

--- args: the options by name. Prints a table, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local rows, list = {}, {}
  for i, ranks in ipairs(args.params.ranks) do
    local result, status = measure(ranks, args.params.steps)
    if not result then return status end
    result.ratio = result.predicted_ms / result.measured_ms
    list[i] = result
    rows[i] = { ranks, ('%.2f'):format(result.measured_ms), ('%.2f'):format(result.predicted_ms),
      ('%+.1f'):format(100 * (result.ratio - 1)), ('%.2f'):format(result.machine.flops / 1e9),
      ('%.2f'):format(result.machine.memory / 1e9), ('%.1f'):format(result.machine.latency * 1e6) }
  end
  if args.json then
    print(json.encode { bench = 'predict', rows = list })
    return
  end
  print(text_table.format({ 'ranks', 'measured ms', 'predicted ms', 'off by %', 'GFLOP/s a rank',
    'GB/s a rank', 'latency us' }, rows))
end

return bench

-- SPDX-License-Identifier: Apache-2.0

--- neap trace: looks into recorded loads, cuts, merges and converts them, and makes synthetic ones.

local chart = require 'neap.draw.chart'
local errors = require 'neap.base.errors'
local formats = require 'neap.replay.formats'
local json = require 'neap.base.json'
local layout_file = require 'neap.replay.layout_file'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local arguments = require 'neap.base.arguments'
local replay = require 'neap.replay'
local session = require 'neap.policy.session'
local whole = arguments.whole
local synth = require 'neap.engine.synth'
local synth_trace = require 'neap.replay.synth_trace'
local text_table = require 'neap.base.text_table'
local tools = require 'neap.replay.trace_tools'
local trace = require 'neap.engine.trace'
local workloads = require 'neap.engine.workloads'

local command = { doc = 'Look into recorded loads, cut, merge, convert or make them.' }

command.examples = [[
Examples:
  neap trace info run.safetensors
  neap trace plot run.safetensors --layer 2               characters; -o load.svg: a picture
  neap trace cut run.safetensors part.safetensors --steps 40..79 --layers 0,2
  neap trace merge all.safetensors a.safetensors b.safetensors --along steps
  neap trace import loads.csv.gz loads.safetensors --slots 4 --node-size 8
  neap trace import router_traces/ run.safetensors
  neap trace import routed_experts.npy served.safetensors --ranks 8 --step-tokens 4096
  neap trace export run.safetensors run.csv.gz
  neap trace layout run.safetensors layout.json --policy neap --slots 5
  neap trace synth made.safetensors --preset e16k4 --ranks 32 --steps 24 --slots 4
  neap trace synth w6.safetensors --workload W6 --experts 64 --top-k 6 --ranks 8 --slots 10
  neap trace synth skew.safetensors --maxvio 4 --experts 64 --top-k 6 --slots 4
A trace is tokens by step, layer, source rank and expert. Files that are read may be safetensors, or
CSV (step,layer,rank,e0,e1,...), plain or packed by gzip, xz or zstd.]]

local function range(text)
  local first, last = text:match '^(%d+)%.%.(%d+)$'
  first, last = tonumber(first or text), tonumber(last or text)
  if first and first % 1 == 0 and first >= 0 and last >= first then return { first, last } end
  return nil, ("--steps is '%s'; the form is 10..19, both included"):format(text)
end

local function numbers(text)
  local list = {}
  for item in text:gmatch '[^,]+' do
    local layer = tonumber(item)
    if not layer or layer % 1 ~= 0 or layer < 0 then
      return nil, ("--layers is '%s'; the form is 0,2,5"):format(text)
    end
    list[#list + 1] = layer
  end
  return #list > 0 and list or nil
end

--- Where a command writes to: its last argument, or -o.
local function add_destination(parser, name)
  parser:argument('to', 'file to write, if not by -o'):argname(name):args '?'
  arguments.output(parser, 'file to write')
end

--- The file to write, of what was given.
local function destination(args)
  if args.to and args.output then
    errors.usage("two files to write: '%s' and --output '%s'", args.to, args.output)
  end
  local to = args.to or args.output
  if not to then
    errors.usage('trace %s: say what to write, last or with -o', args.action)
  end
  return to
end

local function add_synth(parser)
  local made = parser:command('synth', 'Make loads of a model of routing, from a seed.')
  add_destination(made, '<to.safetensors>')
  made:option('--preset', 'sigma, tau, rho, experts and top-k of known loads')
    :choices(lib.sorted_keys(synth.presets))
  made:option('--workload', "a workload of the public token-imbalance benchmark instead: choices "
    .. 'by a rule, not a model of popularity'):choices(workloads.NAMES)
  made:option('--maxvio', "max / mean load of the experts: sigma is chosen so that it is met")
    :convert(tonumber):argname '<max/mean>'
  made:option('--tokens', 'tokens per rank (default: 16384, of a workload 8192)')
    :convert(whole('--tokens', 1))
  for _, option in ipairs { { 'ranks', 32, 'ranks' }, { 'steps', 24, 'steps' },
    { 'layers', 4, 'layers' }, { 'seed', 1, 'of all draws' } } do
    made:option((option[1] == 'ranks' and '-n ' or '') .. '--' .. option[1],
      option[3])
      :convert(whole('--' .. option[1], option[1] == 'seed' and 0 or 1))
      :default(tostring(option[2]))
  end
  made:option('--experts', "experts (default: the preset's; of a workload 64)")
    :convert(whole('--experts', 1))
  made:option('--top-k', "experts per token (default: the preset's; of a workload 8)")
    :convert(whole('--top-k', 1))
  made:option('--sigma', 'spread of log-popularity over experts'):convert(tonumber)
  made:option('--tau', 'spread of log-popularity over ranks'):convert(tonumber)
  made:option('--rho', 'correlation of popularity from step to step'):convert(tonumber)
  made:option('--slots', 'noted for replay: slots per rank'):convert(whole('--slots', 1))
  made:option('--node-size', 'noted for replay: ranks per node'):convert(whole('--node-size', 1))
end

local function add_import(parser)
  local names, docs = formats.names()
  local lines = {}
  for i, name in ipairs(names) do lines[i] = ('%s (%s)'):format(name, docs[name]) end
  local import = parser:command('import convert',
    "Write CSV, or what other systems have recorded, as a trace: " .. table.concat(lines, '; ')
    .. '.')
  import:argument('files', 'what to read: a file, a folder with a file per rank, or several files; '
    .. 'last the file to write, if not by -o'):args '1+':argname '<file>'
  arguments.output(import, 'file to write')
  import:option('--format', 'format (default: as the content shows)'):choices(names)
  import:option('-n --ranks', 'of formats without ranks: deal their tokens to so many, in order')
    :convert(whole('--ranks', 1, 2 ^ 20))
  import:flag('--draw', 'with --ranks: each token goes to a rank at random')
  import:option('--seed', 'with --draw: of what is drawn'):convert(whole('--seed', 0)):default '1'
  import:option('--step-tokens', 'tokens per step, where a format has no steps (default: all)')
    :convert(whole('--step-tokens', 1))
  import:option('--experts', 'experts per layer (default: what the file shows)')
    :convert(whole('--experts', 1, 2 ^ 20))
  import:option('--slots', 'noted for replay: slots per rank'):convert(whole('--slots', 1))
  import:option('--node-size', 'noted for replay: ranks per node'):convert(whole('--node-size', 1))
end

local function add_layout(parser)
  local layout = parser:command('layout', 'The layouts that a policy ends with, for serving: '
    .. "*.json is SGLang's physical_to_logical_map, *.safetensors EPLB's phy2log, log2phy, logcnt.")
  layout:argument('file', 'trace'):argname '<trace>'
  add_destination(layout, '<to.json>')
  layout:option('--policy --policies', 'layout policy, one, as in replay'):default 'neap'
  layout:option('--slots', 'slots per rank (default: as recorded)')
    :convert(whole('--slots', 1, 2 ^ 20))
  layout:option('--node-size', ('ranks per node (default: as recorded, else %d)'):format(
    replay.NODE_SIZE)):convert(whole('--node-size', 1))
  layout:option('--seed', 'of policies that draw'):convert(whole('--seed', 0)):default '1'
  session.deadline_option(layout)
  session.trust_option(layout)
end

function command.options(parser)
  parser:require_command(true):command_target 'action'
  local info = parser:command('info', 'Shape, metadata and balance of a trace.')
  info:argument('file', 'safetensors, or CSV, plain or packed')
  info:flag('--json', 'results as JSON')
  local plot = parser:command('plot', 'Load of the experts over steps, as a heat map.')
  plot:argument('file', 'what to show')
  plot:option('--layer', 'layer'):convert(whole('--layer', 0)):default '0'
  arguments.output(plot, 'SVG file to write instead of characters')
  local cut = parser:command('cut', 'Some steps and layers as a trace of their own.')
  cut:argument('file', 'what to read'):argname '<from>'
  add_destination(cut, '<to.safetensors>')
  cut:option('--steps', 'first and last step: 10..19 (default: all)'):convert(range)
  cut:option('--layers', 'layers: 0,2 (default: all)'):convert(numbers)
  local merge = parser:command('merge', 'Several traces as one.')
  merge:argument('files', 'file to write, if not by -o, then what to read'):args '2+'
    :argname '<file>'
  arguments.output(merge, 'file to write')
  merge:option('--along', 'one after the other, or side by side'):choices { 'steps', 'layers' }
    :default 'steps'
  add_import(parser)
  local export = parser:command('export', 'Write a trace as CSV, gzipped if it is named so.')
  export:argument('file', 'what to read'):argname '<from>'
  add_destination(export, '<to.csv>')
  add_layout(parser)
  add_synth(parser)
end

--- Tokens of a layer over all steps, and the mean over steps of the hottest expert's share in
-- units of the mean expert.
local function describe_layer(t, layer, buffer)
  local tokens, hottest = 0, 0
  for step = 0, t.steps - 1 do
    t:load(step, layer, buffer)
    local total, most = 0, 0
    for e = 0, t.experts - 1 do
      local count = 0
      for r = 0, t.ranks - 1 do count = count + tonumber(buffer[r * t.experts + e]) end
      total, most = total + count, math.max(most, count)
    end
    tokens = tokens + total
    hottest = hottest + (total > 0 and most * t.experts / total or 1)
  end
  return { layer = layer, tokens = tokens, hottest = t.steps > 0 and hottest / t.steps or 1 }
end

local function describe(t)
  local buffer, layers = lib.ffi.new('int64_t[?]', t.ranks * t.experts), {}
  for layer = 0, t.layers - 1 do layers[layer + 1] = describe_layer(t, layer, buffer) end
  return {
    file = t.path, steps = t.steps, ranks = t.ranks, experts = t.experts, rows = layers,
    metadata = setmetatable(t.metadata, { __jsontype = 'object' }),
  }
end

local function show_info(args)
  local t = trace.read(args.file)
  local about = describe(t)
  if args.json then
    about.layers = t.layers
    print(json.results('trace', about, { 'file', 'steps', 'ranks', 'experts', 'layers', 'metadata',
      'rows' }))
    return
  end
  print(('%s: %d steps, %d layers, %d ranks, %d experts'):format(t.path, t.steps, t.layers,
    t.ranks, t.experts))
  for _, key in ipairs(t.metadata_keys) do print(('  %s: %s'):format(key, t.metadata[key])) end
  local rows = {}
  for i, layer in ipairs(about.rows) do
    rows[i] = { layer.layer, text_table.thousands(layer.tokens), ('%.3f'):format(layer.hottest) }
  end
  print(text_table.format({ 'layer', 'routed tokens', 'hottest expert / mean' }, rows))
end

local function tell(path, steps)
  io.stderr:write(('%s: %d steps\n'):format(path, steps))
end

local actions = { info = show_info }

function actions.plot(args)
  outputs.check('--output', args.output)
  local t = trace.read(args.file)
  if args.layer >= t.layers then
    errors.usage('--layer is %d; %s has layers 0 to %d', args.layer, t.path, t.layers - 1)
  end
  local shares = tools.shares(t, args.layer)
  local title = ('%s, layer %d: load of the experts'):format(t.path:match '[^/]*$', args.layer)
  if not args.output then
    print(title .. ' (rows) over steps; @ is twice the mean expert and more')
    print(tools.picture(t, shares, 100))
    return
  end
  outputs.write(args.output, tostring(chart.heat { title = title, rows = t.experts,
    columns = t.steps, x = 'step', y = 'expert', unit = 'load / mean',
    at = function(e, step) return shares[e][step] end }) .. '\n')
end

function actions.cut(args)
  local to = destination(args)
  local t = trace.read(args.file)
  local steps, chosen = tools.all(t)
  steps, chosen = args.steps or steps, args.layers or chosen
  if steps[2] >= t.steps then
    errors.usage('--steps ends with %d; %s has steps 0 to %d', steps[2], t.path, t.steps - 1)
  end
  for _, layer in ipairs(chosen) do
    if layer >= t.layers then
      errors.usage('--layers names %d; %s has layers 0 to %d', layer, t.path, t.layers - 1)
    end
  end
  tools.cut(t, to, steps, chosen, { source = args.file:match '[^/]*$',
    cut = ('steps %d..%d, layers %s'):format(steps[1], steps[2], table.concat(chosen, ',')) })
  tell(to, steps[2] - steps[1] + 1)
end

function actions.merge(args)
  local traces, to = {}, args.output or table.remove(args.files, 1)
  for i, path in ipairs(args.files) do traces[i] = trace.read(path) end
  tell(to, tools.merge(traces, to, args.along))
end

--- What is noted in an imported trace.
local function origin(args, names)
  local sources = {}
  for i, name in ipairs(names) do sources[i] = name:gsub('/+$', ''):match '[^/]*$' end
  return { source = table.concat(sources, ','), slots = args.slots, node_size = args.node_size }
end

actions['import'] = function(args)
  if args.draw and not args.ranks then errors.usage '--draw goes with --ranks' end
  local names = args.files
  args.to = not args.output and #names > 1 and table.remove(names) or nil
  local to = destination(args)
  local loads = formats.read(names, { format = args.format, ranks = args.ranks,
    draw = args.draw, seed = args.seed, experts = args.experts, step_tokens = args.step_tokens })
  if loads then
    tools.write(loads, to, origin(args, names))
    tell(to, loads.steps)
    return
  end
  if #names > 1 then
    errors.usage('%s is a trace already; traces are put together by neap trace merge', names[1])
  end
  if args.ranks or args.experts or args.step_tokens then
    errors.usage('%s: a trace has its ranks, steps and experts; leave out %s', names[1],
      args.ranks and '--ranks' or args.experts and '--experts' or '--step-tokens')
  end
  local t = trace.read(names[1])
  local steps, all = tools.all(t)
  local metadata = origin(args, names)
  metadata.notes = t.notes
  tools.cut(t, to, steps, all, metadata)
  tell(to, t.steps)
end

function actions.export(args)
  local to, t = destination(args), trace.read(args.file)
  tools.export(t, to)
  tell(to, t.steps)
end

function actions.layout(args)
  local to = destination(args)
  session.check({ args.policy }, false, args.trust_policies)
  local t = trace.read(args.file)
  if t.steps == 0 then errors.usage('%s: there are no steps to plan on', args.file) end
  local filled, messages = layout_file.write(to, { trace = t, policy = args.policy,
    topology = replay.open_topology(args, t), seed = args.seed, deadline = args.deadline,
    strict = true, trusted = args.trust_policies })
  for _, message in ipairs(messages or {}) do io.stderr:write('neap: ', message, '\n') end
  if filled > 0 then
    io.stderr:write(('neap: %s: %d empty slots hold an expert of their rank once more\n'):format(
      to, filled))
  end
end

function actions.synth(args)
  local to = destination(args)
  local ok, err = pcall(synth_trace.write, to, args)
  if not ok and err.code == 'ARGUMENT' then errors.usage('%s', err.message) end
  if not ok then error(err, 0) end
  tell(to, args.steps)
end

function command.run(args)
  return actions[args.action](args)
end

return command

--- neap trace: looks into recorded loads, and turns CSV into a trace.

local failure = require 'neap.failure'
local json = require 'neap.json'
local lib = require 'neap.lib'
local text_table = require 'neap.table'
local trace = require 'neap.trace'

local command = { doc = 'Show or convert recorded loads.' }

function command.options(parser)
  parser:require_command(true):command_target 'action'
  local info = parser:command('info', 'Shape, metadata and balance of a trace.')
  info:argument('file', 'safetensors, or CSV, plain or gzipped')
  info:flag('--json', 'results as JSON')
  local convert = parser:command('convert', 'Write a trace or CSV as a safetensors trace.')
  convert:argument('file', 'what to read'):argname '<from>'
  convert:argument('to', 'file to write'):argname '<to.safetensors>'
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
    file = t.path, steps = t.steps, ranks = t.ranks, experts = t.experts, layers = layers,
    metadata = setmetatable(t.metadata, { __jsontype = 'object' }),
  }
end

local function show_info(args)
  local t = trace.open(args.file)
  local about = describe(t)
  if args.json then
    print(json.encode(about, { 'file', 'steps', 'ranks', 'experts', 'layers', 'metadata' }))
    return
  end
  print(('%s: %d steps, %d layers, %d ranks, %d experts'):format(t.path, t.steps, t.layers,
    t.ranks, t.experts))
  for _, key in ipairs(t.metadata_keys) do print(('  %s: %s'):format(key, t.metadata[key])) end
  local rows = {}
  for i, layer in ipairs(about.layers) do
    rows[i] = { layer.layer, text_table.thousands(layer.tokens), ('%.3f'):format(layer.hottest) }
  end
  print(text_table.format({ 'layer', 'routed tokens', 'hottest expert / mean' }, rows))
end

local function convert(args)
  local from = trace.open(args.file)
  if args.file == args.to then failure.usage('%s: cannot be read and written at once', args.to) end
  local metadata = { source = args.file:match '[^/]*$' }
  for _, key in ipairs(from.metadata_keys) do
    if key ~= 'format' and key ~= 'version' and key ~= 'crc32' then
      metadata[key] = from.metadata[key]
    end
  end
  local to = trace.writer(args.to,
    { layers = from.layers, ranks = from.ranks, experts = from.experts, metadata = metadata })
  local load = lib.ffi.new('int64_t[?]', from.ranks * from.experts)
  for step = 0, from.steps - 1 do
    for layer = 0, from.layers - 1 do to:append(step, layer, from:load(step, layer, load)) end
  end
  to:close()
  io.stderr:write(('%s: %d steps\n'):format(args.to, from.steps))
end

function command.run(args)
  return (args.action == 'info' and show_info or convert)(args)
end

return command

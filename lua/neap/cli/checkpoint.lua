-- SPDX-License-Identifier: Apache-2.0

--- neap checkpoint: looks into the checkpoints of trainings, checks them, and takes their
-- parameters out or brings others in.

local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local plain_model = require 'neap.train.plain_model'
local text_table = require 'neap.base.text_table'

local command = { doc = 'Look into checkpoints, check them, take parameters out or bring them in.' }

command.examples = [[
Examples:
  neap checkpoint info saved
  neap checkpoint check saved                 compares all checksums; status 5 if one differs
  neap checkpoint export saved model.safetensors         plain named tensors
  neap checkpoint export saved/training-1/step-00000040 m.safetensors --optimizer
  neap checkpoint import model.safetensors begun         for neap run --checkpoint=begun --resume
A path is a checkpoint (saved/training-1/step-00000040), or a folder, which stands for its newest.
neap run --checkpoint=saved --resume goes on from the newest.]]

function command.options(parser)
  parser:require_command(true):command_target 'action'
  local info = parser:command('info', 'What checkpoints there are, and of what.')
  info:argument('path', 'folder of a run, or a checkpoint')
  info:flag('--json', 'results as JSON')
  local check = parser:command('check', 'Read every byte, and compare all checksums.')
  check:argument('path', 'folder of a run, or a checkpoint')
  check:flag('--json', 'results as JSON')
  local export = parser:command('export', 'Write the parameters as plain named tensors.')
  export:argument('path', 'folder of a run, or a checkpoint')
  export:argument('to', 'file to write'):argname '<to.safetensors>'
  export:flag('--optimizer', "AdamW's moments too: NAME.moment1, NAME.moment2")
  local import = parser:command('import', 'Make a checkpoint that begins with given parameters.')
  import:argument('from', 'named tensors, as export writes them'):argname '<from.safetensors>'
  import:argument('folder', 'folder to make')
  import:option('--like', "checkpoint of such a model (default: what the file's metadata say)")
    :argname '<path>'
end

--- The checkpoints that a path means: a list of { path, training, step, whole }.
local function listed(path)
  path = path:gsub('(.)/+$', '%1')
  if folder.exists(folder.manifest_path(path)) then
    local training, step = path:match 'training%-(%d+)/step%-(%d+)$'
    return { { path = path, training = tonumber(training), step = tonumber(step), whole = true } }
  end
  local root, only = path:match '^(.*)/training%-(%d+)$'
  local list = {}
  for _, training in ipairs(root and { tonumber(only) } or folder.trainings(path)) do
    for _, entry in ipairs(folder.steps(root or path, training)) do
      entry.training = training
      list[#list + 1] = entry
    end
  end
  if #list == 0 then errors.usage('%s: has no checkpoints', path) end
  return list
end

local function bytes_of(manifest)
  local sum = 0
  for _, file in ipairs(manifest.files) do sum = sum + file.bytes end
  return sum
end

--- Reads the manifests of checkpoints; each row gets state ('whole', 'incomplete' or 'damaged')
-- and, of the damaged, error. look(manifest), if given, may raise FORMAT or SYSTEM too.
local function examine(list, look)
  for _, entry in ipairs(list) do
    local ok, err = true, nil
    if entry.whole then
      ok, err = xpcall(function()
        entry.manifest = folder.manifest(entry.path)
        if look then look(entry.manifest) end
      end, errors.handler)
      if not ok and not errors.code(err) then error(err, 0) end
    end
    entry.state = not ok and 'damaged' or entry.whole and 'whole' or 'incomplete'
    entry.error = not ok and errors.text(err) or nil
    if entry.manifest then
      entry.ranks, entry.bytes = entry.manifest.ranks, bytes_of(entry.manifest)
      entry.written = entry.manifest.time
    end
  end
  return list
end

local function time_of(seconds)
  return seconds and os.date('%Y-%m-%d %H:%M:%S', seconds) or false
end

local function table_of(list)
  local rows = {}
  for i, entry in ipairs(list) do
    rows[i] = { entry.training or '', entry.step or '', entry.state, entry.ranks or '',
      entry.bytes and text_table.bytes(entry.bytes) or '', time_of(entry.written) or '' }
  end
  return text_table.format({ 'training', 'step', 'state', 'ranks', 'bytes', 'written' }, rows)
end

local function document_of(list, action, more)
  local rows = {}
  for i, entry in ipairs(list) do
    rows[i] = { path = entry.path, training = entry.training, step = entry.step,
      state = entry.state, error = entry.error, ranks = entry.ranks, bytes = entry.bytes,
      written = entry.written }
  end
  more.rows, more.action = rows, action
  return json.results('checkpoint', more, { 'action', 'path', 'training', 'step', 'state' })
end

--- ---- info --------------------------------------------------------------------------------------

--- The loss of a checkpoint's last step, as text.
local function last_loss(manifest)
  local ok, text = pcall(function()
    local file = folder.open(manifest, 0)
    local losses, dims = file:read('series.losses', 'f64')
    file:close()
    return losses and dims[1] > 0 and ('%.4f'):format(losses[dims[1] - 1]) or 'none'
  end)
  return ok and text or 'cannot be read'
end

--- Facts of a checkpoint by its manifest, as pairs of words and text.
function command.facts(m)
  local parts, parameters, sizes = {}, {}, {}
  for i, segment in ipairs(m.segments) do
    parts[i] = ('from step %d %s on %d rank%s (%s)'):format(segment.step, segment.policy,
      segment.ranks, segment.ranks == 1 and '' or 's', segment.device)
  end
  for i, name in ipairs(lib.sorted_keys(m.parameters)) do
    parameters[i] = ('%s=%s'):format(name, m.parameters[name])
  end
  for i, ffn in ipairs(m.experts.ffn) do sizes[i] = ffn end
  local equal, dense = true, m.experts.dense_layers or 0
  for _, ffn in ipairs(sizes) do equal = equal and ffn == sizes[1] end
  return {
    { 'recipe', ('%s (%s), SHA-256 %s'):format(m.recipe.name, m.recipe.file,
      m.recipe.sha256 or 'unknown') },
    { 'policy', ('%s, SHA-256 %s; its own state: %s'):format(m.policy.text,
      m.policy.sha256 or 'unknown', m.policy.kept) },
    { 'text', m.text.description },
    { 'model', ('%d layers%s, hidden %d, %d experts of %s, %s parameters, masters %s'):format(
      dense + m.experts.layers, dense > 0 and (', the first %d dense'):format(dense) or '',
      m.experts.hidden, #sizes, equal and sizes[1] or table.concat(sizes, ','),
      text_table.thousands(plain_model.count(m)), m.masters) },
    { 'trained', #parts > 0 and table.concat(parts, '; ') or 'not yet: it was imported' },
    { 'loss', last_loss(m) },
    { 'parameters', table.concat(parameters, ' ') },
  }
end

local actions = {}

function actions.info(args)
  local list = examine(listed(args.path))
  local shown
  for _, entry in ipairs(list) do
    if entry.manifest and (not shown or entry.training ~= shown.training) then shown = entry end
  end
  if args.json then
    local about = {}
    for _, name in ipairs { 'recipe', 'policy', 'text', 'parameters', 'segments', 'experts' } do
      about[name] = shown and shown.manifest[name]
    end
    if about.parameters then setmetatable(about.parameters, { __jsontype = 'object' }) end
    print(document_of(list, 'info', about))
    return
  end
  print(table_of(list))
  for _, entry in ipairs(list) do
    if entry.error then print(('damaged: %s'):format(entry.error)) end
  end
  if not shown then return end
  print(('%s: step %d of %d'):format(shown.path, shown.manifest.step, shown.manifest.steps))
  for _, fact in ipairs(command.facts(shown.manifest)) do
    print(('  %-10s  %s'):format(fact[1], fact[2]))
  end
end

--- ---- check -------------------------------------------------------------------------------------

local function check_files(manifest)
  for rank = 0, manifest.ranks - 1 do
    local file = folder.open(manifest, rank)
    file:check()
    file:close()
  end
end

function actions.check(args)
  local list, damaged = examine(listed(args.path), check_files), 0
  for _, entry in ipairs(list) do
    damaged = damaged + (entry.state == 'damaged' and 1 or 0)
    if entry.error and not args.json then
      io.stderr:write(('neap: %s: %s\n'):format(entry.path, entry.error))
    end
  end
  if args.json then
    print(document_of(list, 'check', { damaged = damaged }))
  else
    print(table_of(list))
  end
  return damaged > 0 and errors.DAMAGED or 0
end

--- ---- export, import ----------------------------------------------------------------------------

function actions.export(args)
  local path = folder.find(args.path)
  local tensors, bytes = plain_model.export(path, args.to, args.optimizer)
  io.stderr:write(('%s: %d tensors of %s, %s\n'):format(args.to, tensors, path,
    text_table.bytes(bytes)))
end

function actions.import(args)
  local path = plain_model.import(args.from, (args.folder:gsub('(.)/+$', '%1')),
    args.like and folder.find(args.like))
  io.stderr:write(('%s: go on from it with neap run … --checkpoint=%s --resume\n'):format(path,
    args.folder))
end

function command.run(args)
  return actions[args.action](args)
end

return command

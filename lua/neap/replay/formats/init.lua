-- SPDX-License-Identifier: Apache-2.0

--- Loads that others have recorded, in their formats. Which one a file is shows in its content.
--
--   local loads = formats.read({ 'router_traces/' }, { ranks = nil, draw = false, seed = 1 })
--   loads.format, loads.steps, loads.layers, loads.ranks, loads.experts
--   loads.metadata, loads.notes                   -- a table, a list
--   loads:load(step, layer, out)

local Counts = require 'neap.replay.formats.counts'
local arrays_of_json = require 'neap.replay.formats.eplb_json'
local errors = require 'neap.base.errors'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local npy = require 'neap.replay.formats.npy'
local python = require 'neap.replay.formats.python'
local router_trace = require 'neap.replay.formats.router_trace'
local sglang_csv = require 'neap.replay.formats.sglang_csv'

local formats = {}

-- What they are, add(counts, paths, options), and single: whether it is one file.
local FORMATS = {
  ['router-trace'] = { doc = "Megatron-Core's router_trace_rank*.jsonl",
    add = function(counts, paths)
      for _, path in ipairs(paths) do router_trace.add(counts, path) end
    end },
  sglang = { doc = "SGLang's expert_distribution_recorder_*.pt (needs torch)",
    add = function(counts, paths) python.add(counts, 'sglang', paths) end },
  ['sglang-csv'] = { doc = 'its CSV: layer_id,expert_id,count', add = sglang_csv.add },
  ['routed-experts'] = { doc = '.npy [tokens, layers, K] of vLLM and slime',
    add = function(counts, paths, options)
      local step = 0
      for _, path in ipairs(paths) do
        local shape = npy.add(counts, path, 'choices', { step = step,
          step_tokens = options.step_tokens })
        step = step + math.max(1, math.floor(shape[1] / (options.step_tokens or shape[1])))
      end
    end },
  flame = { doc = 'Parquet of choices: FLAME-MoE (needs pyarrow)',
    add = function(counts, paths, options)
      python.add(counts, 'flame', paths, options.step_tokens)
    end },
  eplb = { doc = 'JSON [layers][experts] of counts, as EPLB takes it', add = arrays_of_json.add,
    single = true },
  counts = { doc = '.npy [steps, layers, experts] or [layers, experts]',
    add = function(counts, paths) npy.add(counts, paths[1], 'counts') end, single = true },
  loads = { doc = '.npy [steps, layers, ranks, experts]',
    add = function(counts, paths) npy.add(counts, paths[1], 'loads') end, single = true },
  ['token-imbalance'] = { doc = "manifest.json and tensors of Megatron-LM's token-imbalance "
    .. 'benchmark (needs torch)',
    add = function(counts, paths) python.add(counts, 'token-imbalance', paths) end },
}

--- Names of the formats; and what each is.
-- : -> list of string, table
function formats.names()
  local docs = {}
  for name, format in pairs(FORMATS) do docs[name] = format.doc end
  return lib.sorted_keys(FORMATS), docs
end

--- ---- files -------------------------------------------------------------------------------------

--- First bytes of a file; nil for a folder.
local function head_of(path)
  local file, why = io.open(path, 'rb')
  if not file then errors.usage('%s', why) end
  local head = file:read(4096)
  file:close()
  return head
end

--- Sorted paths of what is in a folder, those that begin with a dot left out.
local function entries(folder)
  local list = {}
  for _, name in ipairs(launcher.list(folder)) do
    if name:sub(1, 1) ~= '.' then list[#list + 1] = folder .. '/' .. name end
  end
  table.sort(list)
  return list
end

-- What a folder is by the names in it and in its folders, the first that fits.
local BY_NAME = {
  { '/router_trace_rank%d+%.jsonl$', 'router-trace' },
  { '/expert_distribution_recorder_[^/]*%.pt$', 'sglang' },
  { '/expert_distribution[^/]*%.csv$', 'sglang-csv' },
  { '%.parquet$', 'flame' },
  { '%.npy$', 'routed-experts' },
}

local function is_folder(path)
  local file = io.open(path)
  local folder = file and not file:read(0) and select(3, file:read(1)) == 21 -- EISDIR
  if file then file:close() end
  return folder
end

--- Paths of all files in a folder and its folders.
local function files_below(folder, list)
  for _, path in ipairs(entries(folder)) do
    if is_folder(path) then files_below(path, list) else list[#list + 1] = path end
  end
  return list
end

local function find_in_folder(folder)
  local files, manifests = files_below(folder, {}), {}
  for _, path in ipairs(files) do
    manifests[#manifests + 1] = path:match '^(.*)/manifest%.json$'
  end
  if #manifests > 0 then return 'token-imbalance', manifests end
  for _, entry in ipairs(BY_NAME) do
    local found = {}
    for _, path in ipairs(files) do
      if path:find(entry[1]) then found[#found + 1] = path end
    end
    if #found > 0 then return entry[2], found end
  end
  errors.usage('%s: no file in it is of a known format (neap trace import --help lists them)',
    folder)
end

--- Of one file: its format by its content, nil for what Neap reads itself.
local function find_format(path, head)
  local text = head:gsub('^\239\187\191', '')
  if head:sub(1, 6) == npy.MAGIC then
    local file = io.open(path, 'rb')
    local ok, array = pcall(npy.open, file, path)
    file:close()
    if not ok then error(array, 0) end
    return ({ [2] = 'counts', [3] = 'routed-experts' })[#array.shape] or 'loads'
  end
  if head:sub(1, 4) == 'PAR1' then return 'flame' end
  if head:sub(1, 2) == 'PK' then return 'sglang' end
  if text:match('^[^\r\n]*'):find(sglang_csv.HEADING) then return 'sglang-csv' end
  if text:find '^%s*{' and text:find '"top_indices"' then return 'router-trace' end
  if text:find '^%s*{' and text:find '"schema_version"' then return 'token-imbalance' end
  if text:find '^%s*%[' or text:find '^%s*{%s*"' then return 'eplb' end
end

--- Format and paths of what names say: one, or several files of one format.
local function find(names, asked)
  local name = names[1]
  if #names > 1 then
    local format = asked or find_format(name, head_of(name) or '')
    for i = 2, #names do head_of(names[i]) end -- is it there?
    if format == 'token-imbalance' then
      errors.usage('of a token-imbalance benchmark name one folder, which has the others')
    end
    return format, names
  end
  if is_folder(name) then
    local format, paths = find_in_folder((name:gsub('(.)/+$', '%1')))
    return asked or format, paths
  end
  local format = asked or find_format(name, head_of(name) or '')
  if format == 'token-imbalance' then return format, { name:match '^(.*)/[^/]*$' or '.' } end
  return format, { name }
end

--- ---- reading -----------------------------------------------------------------------------------

local function how_ranks(options)
  if not options.ranks then return 'recorded' end
  return options.draw and 'drawn' or 'dealt'
end

--- Reads what names (a list) say: a file, a folder, or files of one format. options: format (nil:
-- by content), ranks, draw, seed, experts, step_tokens. nil if it is Neap's own or a CSV, which
-- trace.open reads. Raises USAGE and FORMAT.
-- : list of string, table -> table or nil
function formats.read(names, options)
  local format, paths = find(names, options.format)
  if not format then return nil end
  if FORMATS[format].single and #paths > 1 then
    errors.usage('format %s is one file, not %d', format, #paths)
  end
  local counts = Counts.new { path = paths[1], ranks = options.ranks, draw = options.draw,
    seed = options.seed or 1, experts = options.experts }
  FORMATS[format].add(counts, paths, options)
  if options.ranks and not counts.without_ranks then
    errors.usage('--ranks is %d, but %s tells which ranks its tokens are of; leave it out',
      options.ranks, names[1])
  end
  local whole = counts:finish()
  whole.format, whole.path = format, names[1]
  whole.metadata.source_format, whole.metadata.source_ranks = format, how_ranks(options)
  if options.draw then whole.metadata.draw_seed = options.seed or 1 end
  whole.metadata.top_k = whole.metadata.top_k or counts.top_k
  return whole
end

return formats

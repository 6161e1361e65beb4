-- SPDX-License-Identifier: Apache-2.0

--- Checkpoints on disk. A folder holds those of one run:
--
--   FOLDER/training-1/step-00000040/manifest.json       what the checkpoint is; written last
--                                   rank-00000.safetensors, rank-00001.safetensors, …
--   FOLDER/training-2/…                                  of a recipe that trains several times
--   FOLDER/lock                                          held by the run that writes here
--
-- A checkpoint without a manifest is none: a run has been ended while it was writing.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local checkpoint = require 'neap.engine.checkpoint'

local folder = {}

local FORMAT = 1
local MOST_RANKS, MOST_ELEMENTS = 2 ^ 20, 2 ^ 52

function folder.training_path(root, training)
  return ('%s/training-%d'):format(root, training)
end

function folder.step_path(root, training, step)
  return ('%s/step-%08d'):format(folder.training_path(root, training), step)
end

function folder.manifest_path(path)
  return path .. '/manifest.json'
end

function folder.rank_name(rank)
  return ('rank-%05d.safetensors'):format(rank)
end

--- Whether something of this name can be opened.
function folder.exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function numbers(path, pattern)
  local list = {}
  for _, entry in ipairs(launcher.list(path)) do
    list[#list + 1] = tonumber(entry:match(pattern))
  end
  table.sort(list)
  return list
end

--- Numbers of the trainings that a folder has something of, ascending.
function folder.trainings(root)
  return numbers(root, '^training%-(%d+)$')
end

--- The checkpoints of a training, newest first: a list of { step =, path =, whole = }.
function folder.steps(root, training)
  local list, found = {}, numbers(folder.training_path(root, training), '^step%-(%d+)$')
  for i = #found, 1, -1 do
    local path = folder.step_path(root, training, found[i])
    list[#list + 1] = { step = found[i], path = path,
      whole = folder.exists(folder.manifest_path(path)) }
  end
  return list
end

--- ---- manifests ---------------------------------------------------------------------------------

local function whole(value, least, most)
  return type(value) == 'number' and value % 1 == 0 and value >= least and value <= most
end

local function text(value)
  return type(value) == 'string'
end

local function list_of(check)
  return function(value)
    if type(value) ~= 'table' then return false end
    local count = 0
    for _ in pairs(value) do count = count + 1 end
    for i = 1, count do
      if not check(value[i]) then return false end
    end
    return true
  end
end

local function count(least, most)
  return function(value) return whole(value, least, most) end
end

local function record(fields)
  return function(value)
    if type(value) ~= 'table' then return false end
    for _, name in ipairs(lib.sorted_keys(fields)) do
      if not fields[name](value[name]) then return false, name end
    end
    return true
  end
end

local function optional(check)
  return function(value) return value == nil or check(value) end
end

local element_counts = list_of(count(1, MOST_ELEMENTS))

local check_document = record {
  neap_checkpoint = count(FORMAT, FORMAT), engine = text, time = count(0, 2 ^ 53),
  training = count(1, 2 ^ 31), step = count(0, 2 ^ 53), steps = count(0, 2 ^ 53),
  ranks = count(1, MOST_RANKS), node_of = list_of(count(0, MOST_RANKS)),
  slots = count(1, 2 ^ 31), device = text, transport = text, dtype = text, masters = text,
  exact = function(value) return type(value) == 'boolean' end,
  recipe = record { name = text, file = text, sha256 = optional(text) },
  policy = record { text = text, name = text, sha256 = optional(text), kept = text },
  text = record { description = text },
  parameters = function(value) return type(value) == 'table' end,
  files = list_of(record { name = text, bytes = count(0, 2 ^ 53), seal = count(0, 2 ^ 32 - 1) }),
  arrays = list_of(record { name = text, sizes = element_counts,
    granule = count(1, MOST_ELEMENTS), residence = optional(record { run = count(1, MOST_RANKS),
      first = list_of(count(0, 2 ^ 31)), past = list_of(count(0, 2 ^ 31)) }) }),
  dense = list_of(record { name = text, dims = element_counts,
    offset = count(0, MOST_ELEMENTS) }),
  experts = record { layers = count(1, 2 ^ 20), hidden = count(1, MOST_ELEMENTS),
    ffn = element_counts, dense_layers = optional(count(0, 2 ^ 20)) },
  numbers = list_of(text), series = list_of(text),
  segments = list_of(record { step = count(0, 2 ^ 53), ranks = count(1, MOST_RANKS), policy = text,
    device = text }),
}

--- Whether an array's homes, if it has any, are those of so many ranks.
local function fits(array, ranks)
  local homes = array.residence
  if not homes then return true end
  if ranks % homes.run ~= 0 or #homes.first ~= ranks or #homes.past ~= ranks then return false end
  for rank = 1, ranks do
    if homes.past[rank] > #array.sizes then return false end
  end
  return true
end

--- The field that does not fit the others, or nil.
local function misfit(document)
  if #document.files ~= document.ranks or #document.node_of ~= document.ranks then
    return 'ranks'
  end
  for rank, file in ipairs(document.files) do
    if file.name ~= folder.rank_name(rank - 1) then return 'files' end
  end
  for _, array in ipairs(document.arrays) do
    local experts = array.name == 'dense' or #array.sizes == #document.experts.ffn
    if not experts or not fits(array, document.ranks) then return 'arrays' end
  end
end

--- A document, if it is a manifest. where: names it. Raises FORMAT.
function folder.checked(document, where)
  if type(document) == 'table' and whole(document.neap_checkpoint, FORMAT + 1, 2 ^ 31) then
    lib.raise('FORMAT', ('%s: is of format %d; this program reads %d'):format(where,
      document.neap_checkpoint, FORMAT))
  end
  local ok, field = check_document(document)
  if ok then field = misfit(document) end
  if not ok or field then
    lib.raise('FORMAT', ("%s: is no manifest of a checkpoint: field '%s'"):format(where,
      field or 'none'))
  end
  return document
end

--- The manifest that a text is. where: names it. Raises FORMAT.
function folder.parse(document, where)
  return folder.checked(json.decode(document), where)
end

--- Reads the manifest of the checkpoint at a path. Raises SYSTEM and FORMAT.
function folder.manifest(path)
  local file = folder.manifest_path(path)
  local document = folder.parse(checkpoint.sealed(file), file)
  document.path = path
  return document
end

--- The manifest of the newest checkpoint of a folder that can be read, or nil.
function folder.newest(root)
  local trainings = folder.trainings(root)
  for i = #trainings, 1, -1 do
    for _, entry in ipairs(folder.steps(root, trainings[i])) do
      local ok, manifest = pcall(folder.manifest, entry.path)
      if ok then return manifest end
    end
  end
end

--- The whole checkpoint that a user's path means: one itself, a training's folder, or a run's, of
-- which it is the newest of the last training. Raises USAGE if there is none.
function folder.find(path)
  path = path:gsub('/+$', '')
  if folder.exists(folder.manifest_path(path)) then return path end
  local root, training = path:match '^(.*)/training%-(%d+)$'
  local trainings = root and { tonumber(training) } or folder.trainings(path)
  root = root or path
  for i = #trainings, 1, -1 do
    for _, entry in ipairs(folder.steps(root, trainings[i])) do
      if entry.whole then return entry.path end
    end
  end
  errors.usage('%s: has no whole checkpoint', path)
end

--- Takes a checkpoint's manifest away: from now on it is none, however far its removal comes.
function folder.disown(path)
  os.remove(folder.manifest_path(path))
end

--- Opens a rank's file of a checkpoint; rank from 0.
function folder.open(manifest, rank)
  local entry = manifest.files[rank + 1]
  return checkpoint.reader(('%s/%s'):format(manifest.path, entry.name), entry)
end

return folder

-- SPDX-License-Identifier: Apache-2.0

--- What of a training a checkpoint holds besides the model (model_state.lua), all of it in rank 0's
-- file, and how it comes back.
--
--   record    series (losses, times, balance), numbers (sums), the rows that the store has got
--   planning  active layouts, plans that are to become active, the loads of the last steps, and
--             what the policy has saved

local lib = require 'neap.base.lib'
local folder = require 'neap.train.checkpoint_folder'
local model_state = require 'neap.train.model_state'
local past_loads = require 'neap.policy.past_loads'
local provenance = require 'neap.runs.provenance'

local ffi = lib.ffi

local state = {}

--- ---- the record --------------------------------------------------------------------------------

--- Series of measurements that go on where they ended, by name.
local function series_of(trainer)
  local all = { losses = trainer.losses, seconds = trainer.seconds,
    imbalance = trainer.balance.imbalance, std = trainer.balance.std }
  for name, measured in pairs(trainer.session.measured) do all[name] = measured end
  if trainer.evaluation then
    all.eval_losses, all.eval_steps = trainer.evaluation.losses, trainer.evaluation.steps
  end
  return all
end

--- Objects whose numbers go on where they ended, by name: { object, fields (nil: all) }.
local function tallies_of(trainer)
  return {
    balance = { trainer.balance, { 'tokens', 'inter_node', 'remote' } },
    session = { trainer.session.counted },
    spent = { trainer.earlier },
    priced = trainer.pricing and { trainer.pricing.sums },
  }
end

local function add_list(writer, name, values, count)
  local array = ffi.new('double[?]', math.max(1, count))
  for i = 1, count do array[i - 1] = values[i] end
  writer:add(name, 'f64', { count }, array)
end

--- Adds the record to rank 0's file; returns the names of its numbers and of its series. spent:
-- sums of all ranks so far, what trainer.earlier is after a resume.
local function add_record(writer, trainer, spent)
  local names, values, tallies = {}, {}, tallies_of(trainer)
  tallies.spent = { spent }
  for _, tally in ipairs(lib.sorted_keys(tallies)) do
    local object = tallies[tally][1]
    for _, field in ipairs(tallies[tally][2] or lib.sorted_keys(object)) do
      if type(object[field]) == 'number' then
        names[#names + 1], values[#values + 1] = ('%s.%s'):format(tally, field), object[field]
      end
    end
  end
  add_list(writer, 'numbers', values, #values)
  local series = series_of(trainer)
  for _, name in ipairs(lib.sorted_keys(series)) do
    add_list(writer, 'series.' .. name, series[name], series[name].count)
  end
  return names, lib.sorted_keys(series)
end

--- A tensor of rank 0's file with so many dimensions. Raises FORMAT.
local function need(file, name, dtype, ndim)
  local values, dims = file:read(name, dtype)
  if not values or #dims ~= ndim then
    lib.raise('FORMAT', ("%s: has no tensor '%s' of %d dimensions"):format(file.path, name, ndim))
  end
  return values, dims
end

local function restore_record(file, manifest, trainer)
  local numbers, dims = need(file, 'numbers', 'f64', 1)
  if dims[1] ~= #manifest.numbers then
    lib.raise('FORMAT', file.path .. ': its numbers are not those of the manifest')
  end
  local tallies, series = tallies_of(trainer), series_of(trainer)
  for i, name in ipairs(manifest.numbers) do
    local tally, field = name:match '^(%w+)%.([%w_]+)$'
    if tallies[tally] then tallies[tally][1][tonumber(field) or field] = numbers[i - 1] end
  end
  for _, name in ipairs(manifest.series) do
    local values, shape = need(file, 'series.' .. name, 'f64', 1)
    if series[name] then series[name]:set(values, shape[1]) end
  end
end

--- ---- planning ----------------------------------------------------------------------------------

--- Adds what planning goes on from; returns what becomes of the policy's own state.
local function add_planning(writer, trainer)
  local session, topology = trainer.session, trainer.topology
  local saved, slots = session:save(trainer.done), topology.slots
  local layouts = ffi.new('int32_t[?]', session.layers * slots)
  for layer = 0, session.layers - 1 do
    ffi.copy(layouts + layer * slots, session:layout(layer):array(), slots * 4)
  end
  writer:add('layouts', 'i32', { session.layers, slots }, layouts)
  local loads, steps = saved.past:pack()
  writer:add('loads', 'i64', { session.layers, steps, topology.ranks, topology.experts }, loads)
  local count = #saved.proposals
  local proposals = ffi.new('int64_t[?]', math.max(1, count * (2 + slots)))
  for i, proposal in ipairs(saved.proposals) do
    local row = proposals + (i - 1) * (2 + slots)
    row[0], row[1] = proposal.step, proposal.layer
    for slot = 0, slots - 1 do row[2 + slot] = proposal.expert_of[slot] end
  end
  writer:add('proposals', 'i64', { count, 2 + slots }, proposals)
  for layer = 0, session.layers - 1 do
    local text = saved.states[layer]
    if text then
      writer:add('policy_state.' .. layer, 'u8', { #text }, ffi.cast('const uint8_t *', text))
      writer.kept[#writer.kept + 1] = text
    end
  end
  return saved.kept
end

--- Whether the checkpoint's ranks, nodes, slots and homes of experts are the trainer's.
local function same_topology(manifest, trainer)
  local residence = manifest.arrays[2].residence -- of the experts of layer 0
  if (residence and residence.run) ~= trainer.topology.homes then return false end
  if manifest.ranks ~= trainer.job.ranks or manifest.slots ~= trainer.topology.slots then
    return false
  end
  for rank = 0, manifest.ranks - 1 do
    if manifest.node_of[rank + 1] ~= trainer.job.node_of[rank] then return false end
  end
  return true
end

local function read_proposals(file, slots)
  local values, dims = need(file, 'proposals', 'i64', 2)
  local list = {}
  for i = 0, dims[2] == 2 + slots and dims[1] - 1 or -1 do
    local row, expert_of = values + i * dims[2], ffi.new('int32_t[?]', slots)
    for slot = 0, slots - 1 do expert_of[slot] = row[2 + slot] end
    list[i + 1] = { step = tonumber(row[0]), layer = tonumber(row[1]), expert_of = expert_of }
  end
  return list
end

--- The states of the policy's layers, if it is the same policy.
local function read_states(file, manifest, trainer)
  local states = {}
  for layer = 0, trainer.session.layers - 1 do
    local values, dims = file:read('policy_state.' .. layer, 'u8')
    if values then states[layer] = ffi.string(values, dims[1]) end
  end
  return manifest.policy.name == state.policy_name(trainer.policy) and states or {}
end

local function restore_planning(file, manifest, trainer)
  local session, topology = trainer.session, trainer.topology
  local layouts, dims = need(file, 'layouts', 'i32', 2)
  local loads, shape = need(file, 'loads', 'i64', 4)
  if dims[1] ~= session.layers or dims[2] ~= manifest.slots or shape[1] ~= session.layers
      or shape[3] ~= manifest.ranks or shape[4] ~= topology.experts then
    lib.raise('FORMAT', file.path .. ': layouts or loads are of another model than the manifest')
  end
  session:restore { step = manifest.step,
    layouts = same_topology(manifest, trainer) and layouts or nil,
    proposals = read_proposals(file, manifest.slots),
    states = read_states(file, manifest, trainer),
    past = past_loads.unpack(loads, shape[1], shape[2], shape[3], shape[4]) }
end

--- ---- all of it ---------------------------------------------------------------------------------

--- The name that a policy's state is kept under: that of its file.
function state.policy_name(text)
  local file = provenance.policy_file(text)
  return file and file:match '([^/]*)$' or text
end

--- Adds to a writer what this rank's file is to hold. spent: see add_record. Returns, on rank 0,
-- the fields of the manifest that follow from it, and what becomes of the policy's own state
-- ('saved', 'none', 'lost').
function state.add(writer, trainer, spent)
  model_state.add(writer, trainer)
  if trainer.job.rank ~= 0 then return nil end
  local fields, kept = model_state.describe(trainer), add_planning(writer, trainer)
  model_state.add_bias(writer, trainer)
  fields.numbers, fields.series = add_record(writer, trainer, spent)
  if trainer.recorder then fields.columns = trainer.recorder:save(writer) end
  return fields, kept
end

--- The rest, once all ranks have loaded: collective.
function state.resume(manifest, trainer)
  local file = folder.open(manifest, 0)
  trainer.done = manifest.step
  trainer.optimizer:restore(manifest.step)
  restore_record(file, manifest, trainer)
  restore_planning(file, manifest, trainer)
  file:close()
end

--- Hands the rows of the steps before the checkpoint to the trainer's recorder; of a run that was
-- not recorded then, what its series have of them.
function state.restore_rows(manifest, trainer)
  local file = folder.open(manifest, 0)
  local names, count = manifest.columns, manifest.step
  local values, dims = file:read('rows', 'f64')
  local hashes = file:read('row_layouts', 'i64')
  file:close()
  if not (names and values and hashes and dims[1] == count and dims[2] == #names) then
    names, hashes = { 'loss', 'seconds' }, ffi.new('uint64_t[?]', math.max(1, count))
    values = ffi.new('double[?]', math.max(1, 2 * count))
    for step = 0, count - 1 do
      values[2 * step], values[2 * step + 1] = trainer.losses[step + 1], trainer.seconds[step + 1]
    end
  end
  trainer.recorder:restore(names, values, hashes, count, trainer.session)
end

return state

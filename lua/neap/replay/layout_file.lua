-- SPDX-License-Identifier: Apache-2.0

--- The layouts that a policy ends with after a trace, one per layer, as serving systems take them:
--
--   *.json          SGLang's --init-expert-location: { "physical_to_logical_map": [layers][slots] }
--   *.safetensors   EPLB's three tensors, int64: phy2log [layers, slots], log2phy [layers, experts,
--                   most replicas] (-1 behind the last one), logcnt [layers, experts]
--
-- Slots count over all ranks: slot s of rank r is r x slots per rank + s.

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local session = require 'neap.policy.session'

local ffi = lib.ffi

local layout_file = {}

--- The policy's layouts for the step after a trace's last: int32_t[slots] by layer, from 0. o:
-- trace, topology, policy, and as session.open takes them seed, deadline, strict, in_process,
-- trusted. Returns besides the messages of its faults.
-- : table -> table, list of string
function layout_file.plan(o)
  local t = o.trace
  local s = session.open { topology = o.topology, layers = t.layers, policy = o.policy,
    seed = o.seed, deadline = o.deadline, strict = o.strict, in_process = o.in_process,
    trusted = o.trusted, wait = true, known = true }
  local load, layouts = ffi.new('int64_t[?]', t.ranks * t.experts), {}
  for step = 0, t.steps do
    s:advance(step)
    for layer = 0, t.layers - 1 do
      t:load(math.min(step, t.steps - 1), layer, load) -- of the step after the last: as that
      s:plan_now(step, layer, load)
      if step < t.steps then s:record(step, layer, load) end
    end
  end
  for layer = 0, t.layers - 1 do
    layouts[layer] = ffi.new('int32_t[?]', o.topology.slots)
    ffi.copy(layouts[layer], s:layout(layer):array(), 4 * o.topology.slots)
  end
  local messages = s:report().messages
  s:close()
  return layouts, messages
end

--- A slot that the policy has left empty holds its rank's first expert once more: these systems
-- have no empty ones. Returns how many there were.
local function fill_empty(layouts, t, topology)
  local slots, filled = topology:slots_of(0), 0
  for layer = 0, t.layers - 1 do
    local experts = layouts[layer]
    for slot = 0, topology.slots - 1 do
      local first = slot - slot % slots
      while experts[slot] < 0 and first % slots < slots - 1 and experts[first] < 0 do
        first = first + 1
      end
      if experts[slot] < 0 then
        filled, experts[slot] = filled + 1, math.max(0, experts[first])
      end
    end
  end
  return filled
end

local function sglang(layouts, t, topology)
  local rows = {}
  for layer = 0, t.layers - 1 do
    rows[layer + 1] = {}
    for slot = 0, topology.slots - 1 do rows[layer + 1][slot + 1] = layouts[layer][slot] end
  end
  return json.encode { physical_to_logical_map = rows } .. '\n'
end

--- Tensors, a list of { name, shape, int64_t array }, as a safetensors file.
local function safetensors(tensors)
  local fields, data, at = {}, {}, 0
  for i, tensor in ipairs(tensors) do
    local count = 1
    for _, size in ipairs(tensor[2]) do count = count * size end
    fields[i] = ('"%s":{"dtype":"I64","shape":[%s],"data_offsets":[%d,%d]}'):format(tensor[1],
      table.concat(tensor[2], ','), at, at + 8 * count)
    data[i], at = ffi.string(tensor[3], 8 * count), at + 8 * count
  end
  local header = '{' .. table.concat(fields, ',') .. '}'
  header = header .. (' '):rep(-#header % 8)
  return ffi.string(ffi.new('uint64_t[1]', #header), 8) .. header .. table.concat(data)
end

local function eplb(layouts, t, topology)
  local slots, experts, most = topology.slots, t.experts, 0
  local phy2log = ffi.new('int64_t[?]', t.layers * slots)
  local logcnt = ffi.new('int64_t[?]', t.layers * experts)
  for layer = 0, t.layers - 1 do
    for slot = 0, slots - 1 do
      local expert = layouts[layer][slot]
      local at = layer * experts + expert
      phy2log[layer * slots + slot], logcnt[at] = expert, logcnt[at] + 1
      most = math.max(most, tonumber(logcnt[at]))
    end
  end
  local log2phy, seen = ffi.new('int64_t[?]', t.layers * experts * most),
    ffi.new('int32_t[?]', t.layers * experts)
  for i = 0, t.layers * experts * most - 1 do log2phy[i] = -1 end
  for layer = 0, t.layers - 1 do
    for slot = 0, slots - 1 do
      local at = layer * experts + layouts[layer][slot]
      log2phy[at * most + seen[at]], seen[at] = slot, seen[at] + 1
    end
  end
  return safetensors { { 'phy2log', { t.layers, slots }, phy2log },
    { 'log2phy', { t.layers, experts, most }, log2phy },
    { 'logcnt', { t.layers, experts }, logcnt } }
end

local WRITERS = { json = sglang, safetensors = eplb }

--- What writes a file of that name. Raises USAGE for another ending, or ranks whose slots differ.
local function writer_of(path, topology)
  local writer = WRITERS[path:match '%.(%w+)$' or '']
  if not writer then
    errors.usage("%s: its name must end with .json (SGLang's physical_to_logical_map) or "
      .. ".safetensors (EPLB's three tensors)", path)
  end
  for rank = 1, topology.ranks - 1 do
    if topology:slots_of(rank) ~= topology:slots_of(0) then
      errors.usage('--slots: rank %d has %d, rank 0 %d; there it must be as many on every rank',
        rank, topology:slots_of(rank), topology:slots_of(0))
    end
  end
  return writer
end

--- Plans and writes; o: as for plan. Returns how many slots were empty and got a replica, and the
-- messages of the policy's faults. Raises USAGE before it begins.
-- : string, table -> integer, list of string
function layout_file.write(path, o)
  local writer = writer_of(path, o.topology)
  outputs.check('the layout', path)
  local layouts, messages = layout_file.plan(o)
  local filled = fill_empty(layouts, o.trace, o.topology)
  outputs.write(path, writer(layouts, o.trace, o.topology))
  return filled, messages
end

return layout_file

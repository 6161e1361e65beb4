-- SPDX-License-Identifier: Apache-2.0

--- What can be done with recorded loads: cut, merged, exported, looked at.
--
--   tools.cut(t, 'part.safetensors', { 10, 19 }, { 0, 2 })

local programs = require 'neap.base.programs'
local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'
local outputs = require 'neap.base.outputs'
local trace = require 'neap.engine.trace'

local ffi = lib.ffi

local tools = {}

-- Metadata that the writer makes anew.
local OWN = { format = true, version = true, crc32 = true, state = true }

--- Metadata of a trace without what belongs to its file.
function tools.metadata(t)
  local metadata = {}
  for _, key in ipairs(t.metadata_keys) do
    if not OWN[key] then metadata[key] = t.metadata[key] end
  end
  return metadata
end

local function check_same(first, t, what)
  for _, name in ipairs(what) do
    if t[name] ~= first[name] then
      errors.usage('%s has %d %s, %s has %d; they must be equal', first.path, first[name], name,
        t.path, t[name])
    end
  end
end

local function check_target(path, traces)
  for _, t in ipairs(traces) do
    if t.path == path then errors.usage('%s: cannot be read and written at once', path) end
  end
end

--- Writes some steps and layers of a trace to a new file. steps: first and last; layers: a list.
function tools.cut(t, path, steps, layers, more)
  check_target(path, { t })
  local metadata = tools.metadata(t)
  for name, value in pairs(more or {}) do metadata[name] = value end
  local writer = trace.writer(path, { layers = #layers, ranks = t.ranks, experts = t.experts,
    metadata = metadata })
  local load = ffi.new('int64_t[?]', t.ranks * t.experts)
  for step = steps[1], steps[2] do
    for origin, layer in ipairs(layers) do
      writer:append(step - steps[1], origin - 1, t:load(step, layer, load))
    end
  end
  writer:close()
end

--- Writes what was read of another's format (replay/formats) as a trace, and tells its notes on
-- stderr. more: metadata.
function tools.write(loads, path, more)
  local metadata = {}
  for name, value in pairs(loads.metadata) do metadata[name] = value end
  for name, value in pairs(more) do metadata[name] = value end
  for _, note in ipairs(loads.notes) do
    io.stderr:write(('neap: %s: %s\n'):format(loads.path, note))
  end
  metadata.notes = #loads.notes > 0 and table.concat(loads.notes, '; ') or nil
  local writer = trace.writer(path, { layers = loads.layers, ranks = loads.ranks,
    experts = loads.experts, metadata = metadata })
  local load = ffi.new('int64_t[?]', loads.ranks * loads.experts)
  for step = 0, loads.steps - 1 do
    for layer = 0, loads.layers - 1 do
      writer:append(step, layer, loads:load(step, layer, load))
    end
  end
  writer:close()
end

--- All layers of a trace, and all of its steps.
function tools.all(t)
  local layers = {}
  for layer = 0, t.layers - 1 do layers[layer + 1] = layer end
  return { 0, t.steps - 1 }, layers
end

--- For every step and layer of what is merged: the trace, its step and its layer.
local function origins(traces, along)
  local list = {}
  if along == 'steps' then
    for _, t in ipairs(traces) do
      for step = 0, t.steps - 1 do
        for layer = 0, t.layers - 1 do list[#list + 1] = { t, step, layer } end
      end
    end
    return list, traces[1].layers
  end
  local layers = 0
  for _, t in ipairs(traces) do layers = layers + t.layers end
  for step = 0, traces[1].steps - 1 do
    for _, t in ipairs(traces) do
      for layer = 0, t.layers - 1 do list[#list + 1] = { t, step, layer } end
    end
  end
  return list, layers
end

--- Writes traces one after the other (along 'steps'), or side by side ('layers'). Raises USAGE
-- where their shapes do not fit. Returns how many steps there are.
function tools.merge(traces, path, along)
  check_target(path, traces)
  for _, t in ipairs(traces) do
    check_same(traces[1], t, { 'ranks', 'experts', along == 'steps' and 'layers' or 'steps' })
  end
  local list, layers = origins(traces, along)
  local first, names = traces[1], {}
  for i, t in ipairs(traces) do names[i] = t.path:match '[^/]*$' end
  local metadata = tools.metadata(first)
  metadata.source, metadata.merged_along, metadata.cut = table.concat(names, ','), along, nil
  local writer = trace.writer(path, { layers = layers, ranks = first.ranks,
    experts = first.experts, metadata = metadata })
  local load = ffi.new('int64_t[?]', first.ranks * first.experts)
  for i, origin in ipairs(list) do
    writer:append(math.floor((i - 1) / layers), (i - 1) % layers,
      origin[1]:load(origin[2], origin[3], load))
  end
  writer:close()
  return #list / layers
end

--- ---- CSV ---------------------------------------------------------------------------------------

local function csv_of(t)
  local lines, heading = {}, { 'step,layer,rank' }
  for e = 0, t.experts - 1 do heading[e + 2] = 'e' .. e end
  lines[1] = table.concat(heading, ',')
  local load, cells = ffi.new('int64_t[?]', t.ranks * t.experts), {}
  for step = 0, t.steps - 1 do
    for layer = 0, t.layers - 1 do
      t:load(step, layer, load)
      for rank = 0, t.ranks - 1 do
        for e = 0, t.experts - 1 do
          cells[e + 1] = ('%d'):format(tonumber(load[rank * t.experts + e]))
        end
        lines[#lines + 1] = ('%d,%d,%d,'):format(step, layer, rank) .. table.concat(cells, ',')
      end
    end
  end
  return table.concat(lines, '\n') .. '\n'
end

--- A text as gzip packs it, without its time.
local function packed(text)
  local path = os.tmpname()
  local ok, err = pcall(programs.feed, 'gzip -n -c >' .. programs.quote(path), 'gzip', text)
  local file = ok and io.open(path, 'rb')
  local bytes = file and file:read '*a'
  if file then file:close() end
  os.remove(path)
  if not ok then error(err, 0) end
  return bytes
end

--- Writes a trace as CSV (step,layer,rank,e0,…), gzipped if the path ends with .gz. The file is
-- there when it is whole.
function tools.export(t, path)
  check_target(path, { t })
  local text = csv_of(t)
  outputs.write(path, path:match '%.gz$' and packed(text) or text)
end

--- ---- pictures ----------------------------------------------------------------------------------

--- Load of every expert over the steps of a layer, in units of the mean expert: rows[expert][step].
function tools.shares(t, layer)
  local rows, load = {}, ffi.new('int64_t[?]', t.ranks * t.experts)
  for e = 0, t.experts - 1 do rows[e] = {} end
  for step = 0, t.steps - 1 do
    t:load(step, layer, load)
    local total = 0
    for i = 0, t.ranks * t.experts - 1 do total = total + tonumber(load[i]) end
    for e = 0, t.experts - 1 do
      local sum = 0
      for r = 0, t.ranks - 1 do sum = sum + tonumber(load[r * t.experts + e]) end
      rows[e][step] = total > 0 and sum * t.experts / total or 0
    end
  end
  return rows
end

local SHADES = { ' ', '.', ':', '-', '=', '+', '*', '#', '%', '@' }

--- A heat map of shares (tools.shares) in characters, at most width columns: the mean expert is in
-- the middle of the shades, twice the mean and more is darkest.
function tools.picture(t, shares, width)
  local lines, joined = {}, math.ceil(t.steps / width)
  for e = 0, t.experts - 1 do
    local cells = {}
    for first = 0, t.steps - 1, joined do
      local last, sum = math.min(t.steps, first + joined) - 1, 0
      for step = first, last do sum = sum + shares[e][step] end
      local level = math.floor(sum / (last - first + 1) / 2 * (#SHADES - 1) + 0.5)
      cells[#cells + 1] = SHADES[1 + math.min(#SHADES - 1, level)]
    end
    lines[e + 1] = ('%4d |%s|'):format(e, table.concat(cells))
  end
  return table.concat(lines, '\n')
end

return tools

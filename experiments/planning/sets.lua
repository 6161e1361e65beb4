-- SPDX-License-Identifier: Apache-2.0

--- The load sets that experiments of this folder replay.

local neap = require 'neap'
local launcher = require 'neap.launcher'

local sets = {}

local function shipped()
  local folder, files = launcher.home .. '/experiments/traces', {}
  for _, name in ipairs(launcher.list(folder)) do
    if name:match '%.safetensors$' then files[#files + 1] = folder .. '/' .. name end
  end
  table.sort(files)
  return files
end

--- Opens the traces named in paths, or all that come with Neap: list of { name, trace, topology }.
-- Slots and node size are as recorded; else from a name like x_c4, and 8.
function sets.open(paths)
  local list = {}
  for i, path in ipairs(#paths > 0 and paths or shipped()) do
    local trace = neap.trace.open(path)
    list[i] = { name = path:match '[^/]*$', trace = trace, topology = neap.topology.open {
      ranks = trace.ranks, experts = trace.experts,
      slots = tonumber(trace.metadata.slots or path:match '_c(%d+)%.'),
      node_size = math.min(tonumber(trace.metadata.node_size or 8), trace.ranks),
    } }
  end
  return list
end

return sets

-- SPDX-License-Identifier: Apache-2.0

--- What nobody has published: other sizes, links, models and shard groups, all simulated. Where
-- does FSEP with the exact split win, where does it lose, and what would be ideal?
--
--   ./neap run experiments/paper/beyond.lua --part=links
--
-- Costs: about two minutes for all parts.

local neap = require 'neap'
local clusters = require 'neap.simulate.cluster'
local op_cost = require 'neap.simulate.op_cost'
local models = require 'neap.simulate.models'
local paper = require 'paper.runs'

local LARGE = { layers = 4, micro_batches = 1 } -- of mixtral-8x7b-e16k4

local function large(changes)
  local all = {}
  for name, value in pairs(LARGE) do all[name] = value end
  for name, value in pairs(changes or {}) do all[name] = value end
  return models.describe('mixtral-8x7b-e16k4', all)
end

local function h100(changes)
  return clusters.describe('h100x256', changes)
end

local function a100(changes)
  return clusters.describe('a100x32', changes)
end

local function slow_rank(ranks, speed)
  local list = {}
  for r = 1, ranks do list[r] = r == 4 and speed or 1 end
  return list
end

--- Experts from half to twice the mean size.
local function unequal(count, mean)
  local list = {}
  for e = 1, count do list[e] = math.floor(mean * (0.5 + (e - 1) / (count - 1)) / 64) * 64 end
  return list
end

-- Parts: lists of { what, cluster, model, settings }.
local PARTS = {
  ranks = function(add)
    for _, n in ipairs { 32, 128, 512, 1024, 4096 } do
      add(('N=%d'):format(n), h100 { ranks = n }, paper.small(),
        { distinct = n > 1024 and 1 or nil }) -- one layer's routing for all
    end
  end,
  messages = function(add)
    for _, n in ipairs { 128, 1024, 4096 } do
      add(('N=%d, 1 us per message'):format(n), h100 { ranks = n, peer = 1e-6 }, paper.small(),
        { distinct = n > 1024 and 1 or nil })
    end
    add('N=128, tokens once per node', h100 { ranks = 128, deduplicated = true }, paper.small())
    local measured = clusters.describe('h200x2').interference
    add('N=128, disturbed as on 2 H200', h100 { ranks = 128, interference = measured },
      paper.small())
  end,
  experts = function(add)
    for _, e in ipairs { 8, 32, 128, 256 } do
      add(('E=%d'):format(e), h100 { ranks = 64 }, paper.small { experts = e,
        top_k = math.min(8, e / 4), slots = math.max(2, e / 32) })
    end
  end,
  slots = function(add)
    for _, c in ipairs { 2, 4, 8, 16 } do
      add(('C=%d'):format(c), h100 { ranks = 64 }, paper.small { slots = c })
    end
    for _, k in ipairs { 1, 2, 4 } do
      add(('K=%d'):format(k), h100 { ranks = 64 }, paper.small { top_k = k })
    end
  end,
  nodes = function(add)
    for _, g in ipairs { 8, 72 } do
      add(('node of %d'):format(g), h100 { ranks = 144, node_size = g, uplink = 45e9 * g },
        paper.small())
    end
  end,
  links = function(add)
    for _, share in ipairs { 1, 0.5, 0.25, 0.1 } do
      add(('uplink %g GB/s'):format(88.95 * share), a100 { uplink = 88.95e9 * share }, large())
    end
    add('ethernet8', clusters.describe 'ethernet8', large())
  end,
  precision = function(add)
    for _, how in ipairs { { 'bf16' }, { 'FP8 unshard', 'fp8' }, { 'FP8 dispatch', nil, 'fp8' },
      { 'both in FP8', 'fp8', 'fp8' } } do
      local settings = { unshard = how[2], dispatch = how[3] }
      add(('uplink 22 GB/s, %s'):format(how[1]), a100 { uplink = 22.24e9 }, large(), settings)
      add(('ethernet8, %s'):format(how[1]), clusters.describe 'ethernet8', large(), settings)
    end
  end,
  tokens = function(add)
    for _, t in ipairs { 2048, 4096, 6144, 8192, 16384, 32768 } do
      add(('%d tokens x 4 per rank'):format(t), a100(), large { tokens = t })
    end
  end,
  unequal = function(add)
    add('experts 0.5 to 1.5 x', a100(), large { ffn = unequal(16, 7168) })
  end,
  slow = function(add)
    add('one rank at 0.7 of its speed', a100 { speed = slow_rank(32, 0.7) }, large())
  end,
  groups = function(add)
    for _, group in ipairs { 'node', 16, 'all' } do
      add(('shards over %s'):format(group), a100(), large(), { shard_group = group })
    end
  end,
}

local ORDER = { 'ranks', 'messages', 'experts', 'slots', 'nodes', 'links', 'precision', 'tokens',
  'unequal', 'slow', 'groups' }
local METHODS = { 'fsdp+ep', 'laer', 'laer+minimax', 'neap' }

--- GB of a rank for the experts of a whole model: working parameters cut over the group, two
-- buffers of parameters and gradients, master and moments cut over all.
local function memory(machine, model, group)
  local size = group == 'all' and machine.ranks or group == 'node' and machine.node_size or group
  local c, layer = op_cost.of(machine, model), 0
  for e = 0, model.experts - 1 do layer = layer + c:expert_parameters(e) end
  local buffers = 4 * model.slots / model.experts * layer * model.bytes
  return (model.layers * layer * (model.bytes / size + 16 / machine.ranks) + buffers) / 1e9
end

local function compare(p, what, machine, model, settings)
  local row, entry, bars, best = { what }, { case = what, methods = {} }, { what }, nil
  for i, method in ipairs(METHODS) do
    local f = paper.score(method, machine, model, p, settings)
    row[i + 1] = ('%.1f'):format(100 * f.share_of_ideal)
    bars[i + 1] = 100 * f.share_of_ideal
    entry.methods[i] = paper.figures(method, what, f)
    best = (not best or f.step_ms < best.step_ms) and { step_ms = f.step_ms, name = method } or best
    entry[method] = f.step_ms
  end
  local group = settings and settings.shard_group or 'all'
  entry.memory_gb = memory(machine, model, group)
  row[#row + 1] = ('%.2f'):format(entry.laer / entry.neap)
  row[#row + 1] = ('%.2f'):format(entry['fsdp+ep'] / entry.neap)
  row[#row + 1], entry.best = best.name, best.name
  row[#row + 1] = ('%.1f'):format(entry.memory_gb)
  return row, entry, bars
end

return neap.recipe.define {
  name = 'beyond',
  doc = 'Other sizes, links, models and shard groups, simulated.',
  params = {
    part = { default = 'all', doc = 'part, or all: ' .. table.concat(ORDER, ', ') },
    steps = { default = 2, min = 1, integer = true, doc = paper.params.steps.doc },
    seeds = { default = 1, min = 1, integer = true, doc = paper.params.seeds.doc },
    out = paper.params.out,
  },

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    if p.part ~= 'all' and not PARTS[p.part] then
      require('neap.base.errors').usage("--part is '%s'; allowed: all, %s", p.part,
        table.concat(ORDER, ', '))
    end
    for _, part in ipairs(ORDER) do
      if p.part == 'all' or p.part == part then
        PARTS[part](function(...)
          rows[#rows + 1], list[#list + 1], data[#data + 1] = compare(p, ...)
          list[#list].part = part
          job:say(('beyond: %s'):format(list[#list].case))
        end)
      end
    end
    local heading = { 'case' }
    for i, method in ipairs(METHODS) do heading[i + 1] = method .. ', % of ideal' end
    for _, title in ipairs { 'laer / neap', 'fsdp+ep / neap', 'fastest', 'GB per rank' } do
      heading[#heading + 1] = title
    end
    paper.report(job, 'beyond', {
      heading = heading, rows = rows, document = { rows = list },
      note = 'Simulated. GB per rank: expert parameters, gradients and optimizer state of the '
        .. 'layers that are simulated.',
      chart = { title = 'Share of the ideal step time (simulated)', unit = '%', lines = true,
        series = METHODS, data = data },
    })
  end,
}

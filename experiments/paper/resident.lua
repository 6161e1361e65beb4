-- SPDX-License-Identifier: Apache-2.0

--- When does restoring sharded experts by history beat experts that stay at home, with replicas
-- that are fetched late on the current counts? On the paper's cluster, and on H100 with many small
-- experts; all simulated, all with the schedule that keeps what has travelled.
--
--   ./neap run experiments/paper/resident.lua
--
-- Costs: about a minute.

local neap = require 'neap'
local clusters = require 'neap.simulate.cluster'
local models = require 'neap.simulate.models'
local paper = require 'paper.runs'
local systems = require 'neap.simulate.systems'

local SCHEDULE = 'neap:recompute=true'

local function published(name)
  return name:match 'e%d+k%d+$', clusters.describe 'a100x32', models.describe(name,
    { load = paper.load(name:match 'e%d+k%d+$', 'timed') })
end

local function small(experts)
  return ('E=%d, 64 H100'):format(experts), clusters.describe('h100x256', { ranks = 64 }),
    paper.small { experts = experts, top_k = math.min(8, experts / 4) }
end

--- Slots of a rank for sharded experts: those of the published models; else what is fastest.
local SLOTS = { 2, 4, 8, 16 }

--- Step ms of a case: sharded experts under neap, and resident ones under each policy; GB.
local function measure(p, machine, model, slots)
  local function run(settings)
    settings.cluster, settings.model, settings.schedule = machine, model, SCHEDULE
    settings.distinct = math.min(8, model.layers)
    return paper.average(settings, p.steps, p.seeds)
  end
  local ep, list = systems.degree(machine, model), { { name = 'neap' }, { name = 'neap, least C' } }
  for _, c in ipairs(slots) do
    local f = run { policy = 'neap', slots = c }
    local best = list[1].figures
    if not best or f.step_ms < best.step_ms then list[1].figures, list[1].slots = f, c end
    list[2].figures = list[2].figures or f
  end
  for i, policy in ipairs(systems.resident) do
    -- a quarter of the homes' slots more for replicas, where replicas are the policy's idea
    local homes = model.experts / ep
    list[i + 2] = { name = policy, figures = run { policy = policy, shard_group = 'resident',
      ep = ep, slots = policy == 'static' and homes or homes + math.ceil(homes / 4) } }
  end
  return list, ep, list[1].slots
end

return neap.recipe.define {
  name = 'resident', doc = 'Sharded experts beside resident ones with late replicas, simulated.',
  params = { steps = paper.params.steps, out = paper.params.out,
    seeds = { default = 4, min = 1, integer = true, doc = paper.params.seeds.doc } },

  run = function(_, job)
    local rows, list, data, names = {}, {}, {}, {}
    local function add(title, machine, model, slots)
      local cells, ep, best = measure(job.params, machine, model, slots or { model.slots })
      local row, bars, first = { title, ep, best }, { title }, cells[1].figures.step_ms
      for i, cell in ipairs(cells) do
        local f = cell.figures
        names[i] = cell.name
        row[#row + 1] = ('%.3f (%.0f)'):format(f.step_ms / first, f.lean_gb)
        bars[i + 1] = f.step_ms / first
        list[#list + 1] = paper.figures(cell.name, title, f)
        list[#list].ratio_to_neap = f.step_ms / first
      end
      rows[#rows + 1], data[#data + 1] = row, bars
      job:say('resident: ' .. title)
    end
    add(published 'mixtral-8x7b-e8k2')
    add(published 'mixtral-8x7b-e16k4')
    for _, experts in ipairs { 8, 32, 64, 128, 256 } do
      local title, machine, model = small(experts)
      local slots = {}
      for _, c in ipairs(SLOTS) do
        if c * machine.ranks >= experts and c <= experts then slots[#slots + 1] = c end
      end
      add(title, machine, model, slots)
    end
    local heading = { 'case', 'ep', 'C' }
    for _, name in ipairs(names) do heading[#heading + 1] = name end
    paper.report(job, 'resident', { heading = heading, rows = rows, document = { rows = list },
      note = 'Step time / that of sharded experts under neap with C slots; in brackets GB of a '
        .. 'rank, of a lean program. ep: ranks with one home of every expert each; C: slots of a '
        .. 'rank for sharded experts, of 2 to 16 the fastest (published models: theirs); least C: '
        .. 'the fewest that hold all experts, 2 at least. Simulated.',
      chart = { title = 'Step time / sharded experts under neap (simulated)', unit = '',
        series = names, data = data } })
  end,
}

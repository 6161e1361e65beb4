-- SPDX-License-Identifier: Apache-2.0

--- How long does planning take? Measured on this machine, one thread, beside what the published C++
-- code takes on a server processor (also one thread; the paper's own figures are 1.6 to 2.4 times
-- higher). 32 experts, synthetic routing.
--
--   ./neap run experiments/paper/planner_time.lua
--
-- Costs: about 10 seconds; timings want an idle machine.

local neap = require 'neap'
local lib = require 'neap.base.lib'
local paper = require 'paper.runs'
local synth = require 'neap.engine.synth'

local C = lib.C
local EXPERTS = 32

--- ms, by slots and ranks.
local PUBLISHED = {
  [1] = { [64] = 0.23, [128] = 0.56, [256] = 1.49, [512] = 15.4, [1024] = 56.7 },
  [4] = { [64] = 0.38, [128] = 0.95, [256] = 2.64, [512] = 18.5, [1024] = 67.2 },
  [16] = { [64] = 0.98, [128] = 2.63, [256] = 8.05, [512] = 38.3, [1024] = 132 },
}

local function open_loads(ranks)
  return synth.open { ranks = ranks, experts = EXPERTS, top_k = 4, tokens = 4096, layers = 1,
    sigma = 1, tau = 0.7, rho = 0.989, seed = 1 }
end

--- Median ms of a plan, warm-started from the one before.
local function measure(name, ranks, slots, plans)
  local topology = neap.topology.open { ranks = ranks, node_size = math.min(8, ranks),
    slots = slots, experts = EXPERTS }
  local planner, loads = neap.plan.open(name, topology), open_loads(ranks)
  local before, out = neap.layout.open(topology), neap.layout.open(topology)
  neap.plan.open('static', topology):plan(loads:load(0, 0), nil, 0, before)
  local times = neap.series.open()
  for step = 0, plans do
    local load = loads:load(step, 0)
    local began = C.neap_clock()
    planner:plan(load, before, 0, out)
    if step > 0 then times:add((C.neap_clock() - began) * 1e3) end
    before, out = out, before
  end
  return times:quantile(0.5)
end

return neap.recipe.define {
  name = 'planner_time',
  doc = 'Planning time of laer and neap beside the published code.',
  params = {
    ranks = { default = { 64, 128, 256, 512, 1024 }, doc = 'numbers of ranks' },
    plans = { default = 5, min = 1, integer = true, doc = 'plans to take the median of' },
    out = paper.params.out,
  },

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    for _, slots in ipairs { 1, 4, 16 } do
      for _, ranks in ipairs(p.ranks) do
        local laer = measure('laer', ranks, slots, p.plans)
        local ours = measure('neap', ranks, slots, p.plans)
        local known = PUBLISHED[slots][ranks]
        rows[#rows + 1] = { ranks, slots, ('%.3f'):format(laer), ('%.3f'):format(ours), known,
          known and ('%.1f'):format(known / laer) }
        list[#list + 1] = { ranks = ranks, slots = slots, experts = EXPERTS, laer_ms = laer,
          neap_ms = ours, published_ms = known }
        data[#data + 1] = { ('N=%d C=%d'):format(ranks, slots), laer, ours, known }
      end
    end
    paper.report(job, 'planner_time', {
      heading = { 'ranks', 'slots', 'laer ms', 'neap ms', 'published ms', 'published / laer' },
      rows = rows, document = { rows = list },
      note = 'Measured on this machine, one thread; the published column on another one.',
      chart = { title = 'One plan, 32 experts', unit = 'ms',
        series = { 'laer', 'neap', 'published' }, data = data },
    })
  end,
}

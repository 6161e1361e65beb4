-- SPDX-License-Identifier: Apache-2.0

--- What a step would take if every expert got as many tokens: the recipe's training once more,
-- with force-balanced routing (simulate/force_balanced.lua), so that all ranks have as much to do.
-- Its time is what the metric share_of_balanced of a run is told by. A policy may take less, if
-- it sends fewer tokens to other ranks and nodes, or restores less.

local errors = require 'neap.base.errors'
local force_balanced = require 'neap.simulate.force_balanced'
local params = require 'neap.base.params'

local balanced_twin = {}

--- Whether a recipe has what a twin needs; raises USAGE if not.
function balanced_twin.check(script)
  local specs = script.params
  if specs.routing and (specs.policies or specs.policy) then return end
  errors.usage("--balanced: recipe %s has no parameter 'routing', or none for its policies",
    script.name)
end

--- Texts of the twin's parameters, from those of the run. It writes no files.
local function texts_of(script, job, given)
  local texts = {}
  for name, text in pairs(given) do texts[name] = text end
  for name, spec in pairs(script.params) do
    if spec.output then texts[name] = '' end
  end
  texts.routing = 'balanced'
  local p, policy = job.params, 'static+minimax'
  local slots, experts = rawget(p, 'slots'), rawget(p, 'experts')
  if slots and experts then
    slots, policy = force_balanced.reference(slots, job.ranks, experts)
    texts.slots = tostring(slots)
  end
  texts[script.params.policies and 'policies' or 'policy'] = policy
  return texts
end

--- Runs the twin with a job like the given one, which must have neither timeline nor checkpoints
-- yet; given: texts of the run's parameters. Nothing is printed or stored. Returns the milliseconds
-- of its step, measured or simulated. Collective.
function balanced_twin.step_ms(script, job, given)
  local rows
  local values = params.values(script.params, texts_of(script, job, given), job.device)
  local twin = setmetatable({ recorded = false, params = values }, { __index = job })
  function twin.print() end
  function twin.say() end
  function twin.record() return nil end
  function twin.report(_, result) rows = result.json.rows end
  function twin.progress(_, total) return job:progress(total, 'balanced') end
  script:run(twin)
  if not rows or not rows[1] or not rows[1].step_ms then
    errors.plain('--balanced: recipe %s reports no time of a step', script.name)
  end
  return rows[1].step_ms
end

return balanced_twin

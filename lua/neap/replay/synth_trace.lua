-- SPDX-License-Identifier: Apache-2.0

--- Synthetic traces: loads of a model of routing, or of a workload of the public benchmark.
--
--   synth_trace.write('made.safetensors', { workload = 'W1', ranks = 8, steps = 24, layers = 4,
--     seed = 1 })
-- Options: ranks, steps, layers, seed; tokens (per rank), experts, top_k; slots and node_size,
-- which are only noted; and either workload (neap.engine.workloads), or preset, sigma, tau, rho,
-- maxvio (neap.engine.synth). maxvio: max / mean load of the experts, for which sigma is chosen.

local lib = require 'neap.base.lib'
local synth = require 'neap.engine.synth'
local trace = require 'neap.engine.trace'
local workloads = require 'neap.engine.workloads'

local synth_trace = {}

local function refuse(given, with, names)
  for _, name in ipairs(names) do
    if given[name] then
      lib.raise('ARGUMENT', ('--%s and --%s exclude each other'):format(with, name), 4)
    end
  end
end

local function open_workload(given)
  refuse(given, 'workload', { 'preset', 'maxvio', 'sigma', 'tau', 'rho' })
  return workloads.open {
    name = given.workload, ranks = given.ranks, tokens = given.tokens or 8192,
    layers = given.layers, seed = given.seed, experts = given.experts or 64,
    top_k = given.top_k or 8,
  }, { 'seed', 'top_k' }
end

--- The preset, and over it what was given.
local function open_model(given)
  local options = { ranks = given.ranks, tokens = given.tokens or 16384, layers = given.layers,
    seed = given.seed }
  for name, value in pairs(synth.presets[given.preset or 'e16k4']) do options[name] = value end
  for _, name in ipairs { 'experts', 'top_k', 'sigma', 'tau', 'rho' } do
    options[name] = given[name] or options[name]
  end
  if given.maxvio then
    refuse(given, 'maxvio', { 'sigma' })
    options.sigma = synth.sigma_for(options, given.maxvio, given.steps)
  end
  return synth.open(options), { 'seed', 'sigma', 'tau', 'rho', 'top_k' }
end

--- Raises ARGUMENT.
function synth_trace.write(path, given)
  local made, noted
  if given.workload then made, noted = open_workload(given) else made, noted = open_model(given) end
  local metadata = { generator = 'neap trace synth', slots = given.slots,
    node_size = given.node_size, tokens_per_step = made.tokens * made.ranks,
    workload = given.workload, maxvio = given.maxvio,
    preset = not given.workload and (given.preset or 'e16k4') or nil }
  for _, name in ipairs(noted) do metadata[name] = made[name] end
  local writer = trace.writer(path, { layers = made.layers, ranks = made.ranks,
    experts = made.experts, metadata = metadata })
  for step = 0, given.steps - 1 do
    for layer = 0, made.layers - 1 do writer:append(step, layer, made:load(step, layer)) end
  end
  writer:close()
end

return synth_trace

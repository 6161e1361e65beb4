-- SPDX-License-Identifier: Apache-2.0

--- neap bench step: whole training steps of a MoE transformer on ranks that are threads, under one
-- schedule of transfers after the other, with the same seed.

local errors = require 'neap.base.errors'
local memory_estimate = require 'neap.train.memory_estimate'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local launch = require 'neap.train.launch'
local params = require 'neap.base.params'
local trainer = require 'neap.train.trainer'

local bench = {
  doc = 'Training steps of a MoE transformer: time, exposed communication, utilization, spans.',
  cuda = true,
}

--- A parameter of the trainer with other defaults: on the CPU, and on a GPU.
local function resized(name, small, large)
  local spec = {}
  for field, value in pairs(trainer.params[name]) do spec[field] = value end
  spec.default, spec.on_cuda = small, large
  return spec
end

local all = params.extend(trainer.params, {
  ranks = { default = 4, on_cuda = 8, min = 1, integer = true, doc = 'ranks; they share a GPU' },
  node_size = { default = 2, on_cuda = 4, min = 1, integer = true, doc = 'ranks per node' },
  layers = resized('layers', 2, 12),
  hidden = resized('hidden', 64, 1024),
  heads = resized('heads', 4, 16),
  kv_heads = resized('kv_heads', 4, 16),
  ffn = resized('ffn', { 128 }, { 2048 }),
  experts = resized('experts', 8, 16),
  sequence = resized('sequence', 64, 2048),
  batch = resized('batch', 8, 8),
  exact = resized('exact', false, false),
  dtype = resized('dtype', 'f32', 'bf16'),
  vocabulary = { default = 256, on_cuda = 32000, min = 2, integer = true,
    doc = 'different tokens' },
  policy = { default = 'minimax', doc = 'layout policy' },
  schedules = { default = { 'none', 'neap' },
    doc = "schedules of transfers, one after the other; with fields: none,laer:chunks=2+keep=3" },
  warm_up = { default = 1, on_cuda = 3, min = 1, integer = true, doc = 'steps before' },
  repeats = { default = 2, on_cuda = 5, min = 1, integer = true, doc = 'measured steps' },
  torch = { default = false,
    doc = 'on a GPU, with experts of one size: besides, the step in plain PyTorch, in turn' },
  dry_run = { default = false, doc = 'print the memory that it will need, by kind; start nothing' },
  timeline = { default = '', doc = "JSON file for Perfetto: the last step of each; '' for none" },
})

-- Not parameters of a measurement.
for _, name in ipairs { 'steps', 'schedule', 'warmup', 'rate' } do all[name] = nil end
bench.options = all

--- The schedule that needs most memory.
local function dry_run(args, values)
  local most
  for _, schedule in ipairs(values.schedules) do
    values.schedule = schedule:gsub('%+', ',')
    local result = memory_estimate.here(values, values.ranks, values.node_size, args.device)
    most = most and most.process > result.process and most or result
  end
  memory_estimate.tell(most, 'bench', args.json)
  return 0
end

function bench.run(args)
  local values = {}
  for name in pairs(bench.options) do values[name] = args.params[name] end
  if values.torch and (args.device ~= 'cuda' or #values.ffn > 1) then
    errors.usage 'bench step: --torch needs --device=cuda and one --ffn for all experts'
  end
  local rank, size = launch.rank_and_size()
  values.ranks = size or values.ranks
  if values.dry_run then return rank and rank > 0 and 0 or dry_run(args, values) end
  local order = json.encode { params = values, device = args.device, json = args.json }
  return launch.run(values.ranks, launcher.home .. '/lua/neap/bench/ranks/step.lua', order)
end

return bench

-- SPDX-License-Identifier: Apache-2.0

--- One rank of neap bench checkpoint: (rank, ranks, world, ORDER). Times are of whole rounds, by
-- rank 0's clock, so that what the writing takes from the steps beside it counts.

local on_rank = require 'neap.bench.ranks.entry'
local checkpoint = require 'neap.engine.checkpoint'
local checkpoints = require 'neap.train.checkpoints'
local device = require 'neap.engine.device'
local folders = require 'neap.train.checkpoint_folder'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local series = require 'neap.base.series'
local trainers = require 'neap.train.trainer'

local C = lib.C

local WARM_UP = 3

--- Random ids: nothing is learned of them, and no corpus is needed.
local text = { name = 'random', texts = {} }

function text.describe()
  return text.name
end

function text.sample(_, seed, step, sequence, length, ids, targets)
  local stream = step * 65536 + sequence
  for i = 0, length - 1 do
    ids[i] = math.floor(256 * C.neap_random_uniform(seed, stream, i))
    targets[i] = math.floor(256 * C.neap_random_uniform(seed, stream, i + 1))
  end
end

--- Seconds of so many steps, with a checkpoint that begins after the first, or without.
local function round(trainer, steps, with)
  device.wait()
  trainer.comm:barrier()
  local began = C.neap_clock()
  for step = 1, steps do
    trainer:step()
    if with and step == 1 then trainer.saver:begin() end
  end
  device.wait()
  trainer.comm:barrier()
  return C.neap_clock() - began
end

local function run(channel, rank, ranks, order)
  local p, node_of = order.params, lib.ffi.new('int32_t[?]', ranks)
  p.steps = p.steps * (2 * p.rounds + 2) + WARM_UP
  local job = { comm = channel, rank = rank, ranks = ranks, node_of = node_of, node_size = ranks,
    device = order.device, params = p, recipe = { name = 'bench', file = 'bench' } }
  function job:say(line)
    if self.rank == 0 then io.stderr:write(line, '\n') end
  end
  job.checkpoints = checkpoints.open(job, { folder = p.folder, seconds = 1e9, keep = 1 })
  local trainer = trainers.open { job = job, params = setmetatable(p, nil), policy = p.policy,
    text = text }
  local steps = (p.steps - WARM_UP) / (2 * p.rounds + 2)
  round(trainer, WARM_UP, false)
  round(trainer, steps, true) -- memory for copies is there from now on
  trainer.saver:close()
  local plain, saved = series.open(), series.open()
  local before = { count = trainer.saver.cost.count, seconds = trainer.saver.cost.seconds }
  for _ = 1, p.rounds do
    plain:add(round(trainer, steps, false))
    saved:add(round(trainer, steps, true))
    trainer.saver:close()
  end
  local cost = trainer.saver.cost
  local copy = (cost.seconds - before.seconds) / (cost.count - before.count)
  local parameters, bytes = trainer.model:count(), cost.bytes / cost.count
  trainer:close()
  if rank > 0 then return end
  for _, entry in ipairs(folders.steps(p.folder, 1)) do checkpoint.remove(entry.path) end
  checkpoint.remove(folders.training_path(p.folder, 1))
  checkpoint.remove(p.folder)
  local low, high = plain:quantile(0.5), saved:quantile(0.5)
  local row = { device = order.device, ranks = ranks, steps = steps, rounds = p.rounds,
    parameters = parameters, bytes = bytes, step_ms = 1e3 * low / steps,
    wait_ms = 1e3 * copy, cost_percent = 100 * (high - low) / low }
  if order.json then
    print(json.results('bench', { bench = 'checkpoint', rows = { row } }))
  else
    print(('%.1f M parameters, checkpoints of %.0f MB: a step waits %.1f ms for the copy; one in '
      .. '%d steps of %.1f ms costs %.2f %% (median of %d rounds)'):format(parameters / 1e6,
      bytes / 1e6, row.wait_ms, steps, row.step_ms, row.cost_percent, p.rounds))
  end
end

return on_rank(run, ...)

-- SPDX-License-Identifier: Apache-2.0

--- One rank of neap bench step, as processes.run calls it. Trains on random tokens (a few of
-- them frequent, as in language) and records every measured step: on the CPU by the host's clock,
-- on a GPU by events in its streams. Where ranks share a GPU, a rank's span holds the time that
-- others' kernels take in between, and a wait is one for the GPU as much as for a link.

local on_rank = require 'neap.bench.ranks.entry'
local device = require 'neap.engine.device'
local every_step = require 'neap.profile.every_step'
local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local process = require 'neap.bench.peers.process'
local series = require 'neap.base.series'
local text_table = require 'neap.base.text_table'
local chrome_trace = require 'neap.profile.chrome_trace'
local trainer = require 'neap.train.trainer'

local ffi, C = lib.ffi, lib.C

--- ---- tokens ------------------------------------------------------------------------------------

--- A text of random tokens: the i-th is as frequent as 1 / i.
local function random_text(vocabulary)
  local text = {}
  function text.describe() return 'random' end
  function text.sample(_, seed, step, sequence, length, ids, targets)
    local stream = C.neap_random_bits(seed, step, sequence)
    local function draw(i)
      return math.floor(vocabulary ^ C.neap_random_uniform(seed, stream, i)) - 1
    end
    local id = draw(0)
    for i = 0, length - 1 do
      ids[i] = id
      id = draw(i + 1)
      targets[i] = id
    end
  end
  return text
end

--- ---- measuring ---------------------------------------------------------------------------------

local function job_of(channel, rank, ranks, order, record)
  local p = order.params
  local node_of = ffi.new('int32_t[?]', ranks)
  for r = 0, ranks - 1 do node_of[r] = math.floor(r / p.node_size) end
  return { comm = channel, rank = rank, ranks = ranks, node_of = node_of, node_size = p.node_size,
    params = p, device = order.device, timeline = record }
end

--- Trains under a schedule; returns what was recorded, the losses and the parameters' counts.
local function measure(channel, rank, ranks, order, schedule)
  local p = order.params
  local record = every_step.open(p.warm_up)
  local run = trainer.open {
    job = job_of(channel, rank, ranks, order, record), params = p, policy = p.policy,
    text = random_text(p.vocabulary), schedule = (schedule:gsub('%+', ',')),
  }
  for _ = 1, p.warm_up + p.repeats do run:step() end
  local total, used = run.model:count()
  local losses = run.losses
  record.device_bytes = select(2, device.held())
  run:close()
  record:close()
  return record, losses, total, used
end

--- ---- results -----------------------------------------------------------------------------------

--- Mean over the recorded steps of a number that fn takes from a summary; nil without any.
local function mean(summaries, fn)
  local values = series.open()
  for _, summary in ipairs(summaries) do
    local value = fn(summary)
    if value then values:add(value) end
  end
  return values.count > 0 and values:mean() or nil
end

--- Milliseconds a step by name, mean over ranks and steps, of a summary's list.
local function by_name(summaries, list)
  local sums, names = {}, {}
  for _, summary in ipairs(summaries) do
    for _, row in ipairs(summary[list]) do
      if not sums[row.name] then names[#names + 1] = row.name end
      sums[row.name] = (sums[row.name] or 0) + 1e3 * row.mean / #summaries
    end
  end
  local rows = {}
  for i, name in ipairs(names) do rows[i] = { name = name, ms = sums[name] } end
  return rows
end

--- Operations of a token's forward and backward: products with parameters, and attention over half
-- a sequence on average. The backward has twice as many as the forward.
local function flops_per_token(p)
  local ffn, width = 0, p.hidden / p.heads
  for _, f in ipairs(p.ffn) do ffn = ffn + f / #p.ffn end
  local layer = p.hidden * (p.hidden + 2 * p.kv_heads * width) + p.hidden * p.hidden
    + p.hidden * p.experts + 3 * p.hidden * ffn * p.top_k + p.hidden * (p.sequence + 1)
  return 6 * (p.layers * layer + p.hidden * p.vocabulary)
end

local function result_of(p, schedule, record, losses)
  local all, tokens = record.summaries, p.batch * p.sequence
  local seconds = mean(all, function(s) return s.seconds end)
  local function share(field)
    return mean(all, function(s) return s[field] / s.seconds end)
  end
  local gap = mean(all, function(s) return s.host_gap end)
  local gap_waits = mean(all, function(s) return s.host_gap_waits end)
  local gaps = mean(all, function(s) return s.host_gaps end)
  return {
    schedule = schedule, step_ms = 1e3 * seconds, tokens_per_second = tokens / seconds,
    tflops = tokens * flops_per_token(p) / seconds / 1e12, exposed = share 'waiting',
    utilization = share 'computing', any_rank_computes = share 'any_computing',
    host_gap_us = gap and 1e6 * gap, host_gap_waits_us = gap and 1e6 * gap_waits,
    host_gap_ms_per_step = gaps and 1e3 * gaps,
    spans = by_name(all, 'compute'), exposed_by = by_name(all, 'exposed'),
    streams = by_name(all, 'busy'), device_bytes = record.device_bytes,
    first_loss = losses[1], last_loss = losses[losses.count],
  }
end

local function percent(value)
  return ('%.1f'):format(100 * value)
end

local function print_spans(results)
  local heading, index, rows = { 'ms per step, mean over ranks' }, {}, {}
  local function add(title, list, column)
    for _, entry in ipairs(list) do
      local name = title .. entry.name
      if not index[name] then
        rows[#rows + 1] = { name }
        for i = 1, #results do rows[#rows][i + 1] = '0.00' end
        index[name] = rows[#rows]
      end
      index[name][column] = ('%.2f'):format(entry.ms)
    end
  end
  for i, r in ipairs(results) do
    heading[i + 1] = r.schedule
    add('', r.spans, i + 1)
    add('exposed: wait for ', r.exposed_by, i + 1)
    add('stream busy: ', r.streams, i + 1)
  end
  print('\n' .. text_table.format(heading, rows))
end

local function print_torch(document)
  if not document.torch then return end
  if not document.torch_parameters then
    print('plain PyTorch: ' .. document.torch)
    return
  end
  print(('plain PyTorch (%s), %.1f M parameters, %.2f GB, in turn:'):format(document.torch,
    document.torch_parameters / 1e6, document.torch_bytes / 1e9))
  for _, r in ipairs(document.rows) do
    print(('  beside %s: %.1f ms, %.2f x Neap\'s'):format(r.schedule, r.torch_step_ms,
      r.torch_ratio))
  end
end

local function print_result(document)
  print(('%s: %.1f M parameters (%.1f M per token), %s, %d ranks, %d tokens per step, policy %s')
    :format(document.gpu or 'CPU', document.parameters / 1e6, document.used_parameters / 1e6,
    document.dtype, document.ranks, document.tokens, document.policy))
  local rows = {}
  for i, r in ipairs(document.rows) do
    rows[i] = { r.schedule, ('%.1f'):format(r.step_ms), ('%.0f'):format(r.tokens_per_second),
      ('%.2f'):format(r.tflops), percent(r.exposed), percent(r.utilization),
      percent(r.any_rank_computes), r.host_gap_us and ('%.0f'):format(r.host_gap_us) or '',
      r.host_gap_us and ('%.0f'):format(r.host_gap_waits_us) or '',
      ('%.2f'):format(r.device_bytes / 1e9) }
  end
  print(text_table.format({ 'schedule', 'step ms', 'tokens/s', 'TFLOP/s', 'exposed %',
    'utilization %', 'any rank computes %', 'host gap us per layer', 'for counts', 'GB' }, rows))
  print_torch(document)
  print_spans(document.rows)
end

local SIZES = { 'ranks', 'node_size', 'layers', 'hidden', 'heads', 'kv_heads', 'ffn', 'experts',
  'top_k', 'slots', 'sequence', 'batch', 'vocabulary', 'policy', 'seed', 'dtype', 'repeats' }

local function document_of(order, results, total, used)
  local p = order.params
  local document = { bench = 'step', device = order.device, tokens = p.batch * p.sequence,
    gpu = order.device == 'cuda' and device.describe(0) or nil, parameters = total,
    used_parameters = used, rows = results }
  for _, name in ipairs(SIZES) do document[name] = p[name] end
  return document
end

--- ---- plain PyTorch -------------------------------------------------------------------------

local PEER = { 'layers', 'hidden', 'heads', 'kv_heads', 'experts', 'top_k', 'sequence', 'batch',
  'vocabulary', 'clip', 'decay' }

--- The same model there, on the whole batch; nil unless rank 0 is to ask it.
local function open_torch(p, rank)
  if not p.torch or rank > 0 then return nil end
  local order = { ffn = p.ffn[1] }
  for _, name in ipairs(PEER) do order[name] = p[name] end
  local torch = process.open(process.STEP, order)
  torch:ask 'prepare'
  return torch
end

--- Its steps, as many as were measured of Neap, into a schedule's result.
local function ask_torch(torch, result, repeats)
  local times = series.open()
  for _ = 1, repeats do times:add(torch:ask 'sample' or 0 / 0) end
  if torch.failure then return end
  result.torch_step_ms = times:quantile(0.5)
  result.torch_ratio = result.torch_step_ms / result.step_ms
end

local function close_torch(torch, document)
  if not torch then return end
  local about = torch:ask 'rows'
  document.torch = torch.failure or about.variant
  document.torch_parameters = about and about.parameters
  document.torch_bytes = about and about.device_bytes
  torch:close()
end

local function run(channel, rank, ranks, order)
  local p = order.params
  p.steps, p.rate, p.warmup = p.warm_up + p.repeats, 1e-4, 0
  local results, runs, total, used = {}, {}
  local torch = open_torch(p, rank)
  for i, schedule in ipairs(p.schedules) do
    local record, losses
    record, losses, total, used = measure(channel, rank, ranks, order, schedule)
    if rank == 0 then
      results[i] = result_of(p, schedule, record, losses)
      runs[i] = { label = schedule, ranks = record.last }
      if torch then ask_torch(torch, results[i], p.repeats) end
    end
  end
  if rank > 0 then return end
  if p.timeline ~= '' then chrome_trace.write(p.timeline, runs) end
  local document = document_of(order, results, total, used)
  close_torch(torch, document)
  if order.json then print(json.results('bench', document)) else print_result(document) end
end

return on_rank(run, ...)

--- A long training with a new layout at every step, and what its processes hold meanwhile: resident
-- memory, Lua's heap, open files, memory of the device. tests/endurance.sh runs it. The slopes are
-- those of straight lines through the samples after the warm-up; one that is above its mark is an
-- error.

local neap = require 'neap'
local device = require 'neap.engine.device'
local launcher = require 'neap.launcher'
local text = require 'random_text'

local ffi = neap.lib.ffi

local PAGE = 4096
local FIELDS = { 'resident', 'heap', 'files', 'device' }

local small = {
  steps = 10000, batch = 4, sequence = 8, layers = 2, hidden = 8, heads = 1, kv_heads = 1,
  experts = 8, top_k = 2, ffn = { 8 }, slots = 4,
}
local params = neap.params.extend(neap.trainer.params, {
  policy = { default = 'random', doc = 'policy to train under' },
  every = { default = 100, min = 1, integer = true, doc = 'steps between samples' },
  warm = { default = 0.2, min = 0, max = 0.9, doc = 'share of the steps before the first sample' },
  resident_mark = { default = 1024, doc = 'bytes per step that a process may grow by' },
  heap_mark = { default = 256, doc = "bytes per step that a rank's Lua heap may grow by" },
  device_mark = { default = 128, doc = "bytes per step that a rank's device memory may grow by" },
})
for name, value in pairs(small) do
  params[name] = neap.params.extend(params[name], { default = value })
end

local function read(path)
  local file = io.open(path)
  local body = file and file:read '*a' or ''
  if file then file:close() end
  return body
end

local function resident(process)
  return (tonumber(read(('/proc/%s/statm'):format(process)):match '^%d+ (%d+)') or 0) * PAGE
end

--- What this rank's process and its Lua state hold.
local function look()
  collectgarbage()
  return { resident = resident 'self', heap = collectgarbage 'count' * 1024,
    files = #launcher.list '/proc/self/fd', device = (device.held()) }
end

--- Bytes that the processes hold which a process has started: the spawner and the policy's worker.
local function helpers(process)
  local sum = 0
  for _, thread in ipairs(launcher.list(('/proc/%s/task'):format(process))) do
    for child in read(('/proc/%s/task/%s/children'):format(process, thread)):gmatch '%d+' do
      sum = sum + resident(child) + helpers(child)
    end
  end
  return sum
end

--- Slope of the straight line nearest to the points (x, y) in least squares.
local function slope(points)
  local n, mx, my, xx, xy = #points, 0, 0, 0, 0
  for _, p in ipairs(points) do mx, my = mx + p[1] / n, my + p[2] / n end
  for _, p in ipairs(points) do
    xx, xy = xx + (p[1] - mx) ^ 2, xy + (p[1] - mx) * (p[2] - my)
  end
  return xx > 0 and xy / xx or 0
end

--- All ranks' looks, by rank from 0. Collective.
local function gather(job)
  local mine, seen = ffi.new('int64_t[?]', #FIELDS), nil
  for rank = 0, job.ranks - 1 do -- in turn: a look opens files
    if rank == job.rank then seen = look() end
    job.comm:barrier()
  end
  local all = ffi.new('int64_t[?]', #FIELDS * job.ranks)
  local counts, list = {}, {}
  for i, name in ipairs(FIELDS) do mine[i - 1] = seen[name] end
  for rank = 1, job.ranks do counts[rank] = #FIELDS end
  job.comm:all_gather(mine, all, counts, 'i64')
  for rank = 0, job.ranks - 1 do
    list[rank] = {}
    for i, name in ipairs(FIELDS) do list[rank][name] = tonumber(all[rank * #FIELDS + i - 1]) end
  end
  return list
end

--- The steepest slope of a field over the ranks, and whether it has ever changed.
local function steepest(samples, field)
  local most, least, highest = -math.huge, math.huge, -math.huge
  for rank = 0, #samples[1].ranks do
    local points = {}
    for i, sample in ipairs(samples) do
      local value = sample.ranks[rank][field]
      points[i] = { sample.step, value }
      if rank == 0 then least, highest = math.min(least, value), math.max(highest, value) end
    end
    most = math.max(most, slope(points))
  end
  return most, highest - least
end

local function summary(samples, changed, p)
  local points = {}
  for i, sample in ipairs(samples) do points[i] = { sample.step, sample.helpers } end
  local _, files = steepest(samples, 'files')
  local last = samples[#samples].ranks[0]
  return {
    steps = p.steps, layouts_changed = changed, resident = last.resident, heap = last.heap,
    open_files = last.files, resident_slope = (steepest(samples, 'resident')),
    helpers_slope = slope(points), heap_slope = (steepest(samples, 'heap')),
    device_slope = (steepest(samples, 'device')), files_changed = files,
  }
end

local function check(row, p)
  local function limit(name, mark)
    if row[name] > mark then
      error(('%s is %.0f bytes per step; the mark is %g'):format(name, row[name], mark), 0)
    end
  end
  limit('resident_slope', p.resident_mark)
  limit('helpers_slope', p.resident_mark)
  limit('heap_slope', p.heap_mark)
  limit('device_slope', p.device_mark)
  if row.files_changed > 0 then error(row.files_changed .. ' files more or fewer are open', 0) end
  if row.layouts_changed < 0.9 * row.steps then
    error(('only %d of %d steps had a new layout'):format(row.layouts_changed, row.steps), 0)
  end
end

return neap.recipe.define {
  name = 'endures', doc = 'A long training, and what it holds.', ranks = 4, node_size = 2,
  params = params,
  run = function(_, job)
    local p, samples, changed, before = job.params, {}, 0, nil
    local trainer = neap.trainer.open { job = job, params = p, policy = p.policy, text = text,
      wait = true }
    while trainer.done < p.steps do
      trainer:step()
      local hash = trainer.session:layout(0):hash()
      changed, before = changed + (hash ~= before and 1 or 0), hash
      if trainer.done % p.every == 0 and trainer.done >= p.warm * p.steps then
        local ranks = gather(job)
        samples[#samples + 1] = job.rank == 0
          and { step = trainer.done, ranks = ranks, helpers = helpers 'self' } or nil
      end
    end
    trainer:close()
    if job.rank ~= 0 then return end
    local row = summary(samples, changed, p)
    job:report { text = ('%d steps, %d new layouts; a process %.1f MB and %+.0f bytes per step, '
      .. "its helpers %+.0f, a rank's Lua heap %.1f MB and %+.0f, its device %+.0f; %d open files, "
      .. '%d more or fewer'):format(row.steps, row.layouts_changed, row.resident / 2 ^ 20,
      row.resident_slope, row.helpers_slope, row.heap / 2 ^ 20, row.heap_slope, row.device_slope,
      row.open_files, row.files_changed), json = row }
    check(row, p)
  end,
}
-- SPDX-License-Identifier: Apache-2.0

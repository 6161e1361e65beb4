-- SPDX-License-Identifier: Apache-2.0

--- What SGLang's /dump_expert_distribution_record wrote as CSV (until 0.4.6): layer_id,expert_id,
-- count, in files expert_distribution_rank{r}_timestamp{t}.csv. A dump is a step.

local lib = require 'neap.base.lib'

local sglang_csv = {}

sglang_csv.HEADING = '^[\239\187\191]*"?layer_id"?%s*,%s*"?expert_id"?%s*,%s*"?count"?%s*$'

local function fail(path, number, text, ...)
  lib.raise('FORMAT', ('%s: line %d: '):format(path, number) .. text:format(...), 2)
end

--- Calls each(layer, expert, count) for every row of a file.
local function read(path, each)
  local file, number = assert(io.open(path, 'rb')), 0
  local ok, err = pcall(function()
    for line in file:lines() do
      number = number + 1
      line = line:gsub('"', ''):gsub('\r$', '')
      local layer, expert, count = line:match '^%s*(%d+)%s*,%s*(%d+)%s*,%s*(%d+)%.?0*%s*$'
      if layer then
        each(tonumber(layer), tonumber(expert), tonumber(count))
      elseif not (number == 1 and line:find(sglang_csv.HEADING)) and line:find '%S' then
        fail(path, number, "'%.40s': layer_id,expert_id,count expected", line)
      end
    end
  end)
  file:close()
  if not ok then error(err, 0) end
end

--- Of files' names: rank and time, or nil.
local function rank_of(path)
  return tonumber(path:match 'rank(%d+)[^/]*$'), tonumber(path:match 'timestamp([%d.]+)%.csv$') or 0
end

--- Adds files: of ranks, if their names say which, else each of all ranks.
function sglang_csv.add(counts, paths)
  local dumps = {}
  for i, path in ipairs(paths) do
    local rank, time = rank_of(path)
    dumps[i] = { path = path, rank = rank, time = time }
  end
  table.sort(dumps, function(a, b) return a.time < b.time end)
  local next_step = {} -- of every rank: its dumps are steps in their order
  for _, dump in ipairs(dumps) do
    local rank = dump.rank or -1
    local step = next_step[rank] or 0
    next_step[rank] = step + 1
    if not dump.rank then counts:need_ranks 'it' end
    read(dump.path, function(layer, expert, tokens)
      if dump.rank then
        counts:add(counts:row(step, layer, dump.rank), expert, tokens)
      else
        counts:spread(step, layer, expert, tokens)
      end
    end)
  end
end

return sglang_csv

-- SPDX-License-Identifier: Apache-2.0

--- Megatron-Core's router traces (--moe-routing-trace-path): router_trace_rank{r}.jsonl, a file a
-- rank, a line for every router call (megatron/core/transformer/moe/router_trace.py):
--   {"step": 0, "stage": "pre_dispatch", "block": "decoder", "layer": 3, "rank": 0,
--    "num_tokens": 128, "topk": 22, "top_indices": [[12, 45, …], …]}
-- Layers of the block "mtp" come after the decoder's. Calls of one step and layer, of its
-- micro-batches, are added.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'

local ffi = lib.ffi

local router_trace = {}

local MTP_FIRST, MTP_HEAD = 1000000, 1000 -- ids of layers of the block "mtp", and of its heads

local function fail(path, number, text, ...)
  lib.raise('FORMAT', ('%s: line %d: '):format(path, number) .. text:format(...), 2)
end

local ZERO, NINE, OPEN, CLOSE = ('0'):byte(), ('9'):byte(), ('['):byte(), (']'):byte()
local MINUS, COMMA, SPACE = ('-'):byte(), (','):byte(), (' '):byte()

--- The place behind the list that begins at a place of a line, or nil if it does not end.
local function end_of_list(line, at)
  local bytes, depth = ffi.cast('const uint8_t *', line), 0
  for i = at - 1, #line - 1 do
    local c = bytes[i]
    if c == OPEN then depth = depth + 1 elseif c == CLOSE then depth = depth - 1 end
    if depth == 0 then return i + 2 end
  end
end

--- Adds the numbers of a list of lists, which lies in a line from a place up to another. Returns
-- how many they are, or nil if there is something else in it.
local function add_indices(counts, row, line, at, past)
  local bytes, value, sign, found = ffi.cast('const uint8_t *', line), -1, 1, 0
  for i = at - 1, past - 2 do
    local c = bytes[i]
    if c >= ZERO and c <= NINE then
      value = (value < 0 and 0 or value * 10) + c - ZERO
    else
      if value >= 0 then
        if sign > 0 then counts:add(row, value, 1) end -- below 0: a token that was dropped
        found, value, sign = found + 1, -1, 1
      end
      if c == MINUS then
        sign = -1
      elseif c ~= OPEN and c ~= CLOSE and c ~= COMMA and c ~= SPACE then
        return nil
      end
    end
  end
  return found
end

local function layer_of(record)
  if record.block ~= 'mtp' then return record.layer end
  return MTP_FIRST + (record.mtp_idx or 0) * MTP_HEAD + record.layer
end

--- Adds a line. rank: what the file's name says, for lines without one.
local function add_line(counts, path, number, line, rank)
  local from, to = line:find '"top_indices"%s*:%s*'
  if not from then fail(path, number, 'there are no "top_indices" in it') end
  local past = end_of_list(line, to + 1)
  local record = past and json.decode(line:sub(1, to) .. '0' .. line:sub(past))
  if type(record) ~= 'table' or type(record.step) ~= 'number' or type(record.layer) ~= 'number' then
    fail(path, number, 'it is truncated, or no record of a router: %.60s…', line)
  end
  local row = counts:row(record.step, layer_of(record), record.rank or rank or 0)
  local found = add_indices(counts, row, line, to + 1, past)
  local wanted = (record.num_tokens or 0) * (record.topk or 0)
  if not found or (record.num_tokens and record.topk and found ~= wanted) then
    fail(path, number, '"top_indices" has %s numbers; num_tokens x topk are %d',
      found or 'other things than', wanted)
  end
  counts.top_k = counts.top_k or record.topk
end

--- Adds a file.
function router_trace.add(counts, path)
  local file, number = assert(io.open(path, 'rb')), 0
  local rank = tonumber(path:match 'rank(%d+)%.jsonl$')
  local ok, err = pcall(function()
    for line in file:lines() do
      number = number + 1
      if line:find '%S' then add_line(counts, path, number, line, rank) end
    end
  end)
  file:close()
  if not ok then error(err, 0) end
end

return router_trace

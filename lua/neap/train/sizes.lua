-- SPDX-License-Identifier: Apache-2.0

--- Parameters of a training that do not fit together: told before it begins, as a mistake in how
-- the command was called. What each may be by itself its declaration says (trainer.params).

local errors = require 'neap.base.errors'
local memory_estimate = require 'neap.train.memory_estimate'
local schedules = require 'neap.nn.schedule'
local shard_group = require 'neap.nn.shard_group'

local sizes = {}

local function check_layers(p)
  local dense = rawget(p, 'dense_layers') or 0
  if dense >= p.layers then
    errors.usage('--dense-layers is %d: of %d layers, one must have experts; allowed are 0 to %d',
      dense, p.layers, p.layers - 1)
  end
  if (rawget(p, 'dense_ffn') or 0) > 0 and dense == 0 then
    errors.usage('--dense-ffn is %d; there are no layers without experts (--dense-layers=1)',
      p.dense_ffn)
  end
end

local function check_heads(p)
  if p.hidden % p.heads ~= 0 or p.hidden / p.heads % 2 ~= 0 then
    errors.usage('--heads is %d and --hidden %d: hidden / heads must be a whole number, and even',
      p.heads, p.hidden)
  end
  if p.heads % p.kv_heads ~= 0 then
    errors.usage('--kv-heads is %d; it must divide the %d heads', p.kv_heads, p.heads)
  end
end

local function check_experts(p, ranks)
  if p.top_k > p.experts then
    errors.usage('--top-k is %d; there are %d experts', p.top_k, p.experts)
  end
  if #p.ffn ~= 1 and #p.ffn ~= p.experts then
    errors.usage('--ffn has %d sizes; it must have one, or one for each of the %d experts', #p.ffn,
      p.experts)
  end
  if p.slots * ranks < p.experts then
    errors.usage('--slots is %d: %d slots on each of %d rank%s do not hold %d experts; it must be '
      .. '%d or more', p.slots, p.slots, ranks, ranks == 1 and '' or 's', p.experts,
      math.ceil(p.experts / ranks))
  end
end

local function check_resident(p, ranks)
  local _, homes = shard_group.resolve(p.shard_group, rawget(p, 'ep'), ranks,
    rawget(p, 'unshard'))
  if homes and p.slots * homes < p.experts then
    errors.usage('--slots is %d: %d slots on each of %d ranks that are to have homes of all %d '
      .. 'experts; it must be %d or more, or --ep higher', p.slots, p.slots, homes, p.experts,
      math.ceil(p.experts / homes))
  end
end

local function check_group(text, ranks)
  local group = tonumber(text)
  if text == 'all' or text == 'node' or text == 'resident' then return end
  if not group or group % 1 ~= 0 or group < 1 or group > ranks then
    errors.usage("--shard-group is '%s'; it must be all, node or a whole number of ranks from 1 to "
      .. '%d, or resident', text, ranks)
  end
end

--- specs, p: the recipe's parameters and their values, which are left alone unless they are those
-- of a training. Raises USAGE.
function sizes.check(specs, p, ranks)
  if not memory_estimate.knows(specs) then return end
  check_layers(p)
  check_heads(p)
  check_experts(p, ranks)
  check_group(p.shard_group, ranks)
  check_resident(p, ranks)
  schedules.resolve(p.schedule)
end

return sizes

-- SPDX-License-Identifier: Apache-2.0

--- Options of a simulation: their defaults, and what is wrong with what was given.

local base = require 'neap.base.options'
local errors = require 'neap.base.errors'
local clusters = require 'neap.simulate.cluster'
local models = require 'neap.simulate.models'
local schedules = require 'neap.nn.schedule'
local shard_group = require 'neap.nn.shard_group'

local options = {}

local SPEC = {
  policy = { default = 'laer' }, schedule = { default = 'laer', type = 'string table' },
  token_group = { default = 'all', type = 'string number' },
  shard_group = { default = 'all', type = 'string number' }, tensor = { default = 1 },
  parts = { default = 1 }, elementwise = { default = 1 }, gradient_bytes = { default = 2 },
  accumulate = { default = false }, dense_last = { default = false },
  resident = { default = false }, seed = { default = 1 },
  warm_up = { default = 5 }, in_process = { default = true }, trusted = { default = false },
  strict = { default = false }, deadline = {}, routing = { default = 'chosen' },
  ep = { default = 0 }, unshard = { default = 'dtype' }, dispatch = { default = 'dtype' },
  cluster = {}, model = {}, trace = {}, slots = {}, distinct = {},
}

local CELLS = 2 ^ 22 -- ranks x experts x layers: seconds of synthetic loads and plans

local function check_whole(name, value, low, high)
  if type(value) ~= 'number' or value % 1 ~= 0 or value < low or value > high then
    errors.usage('%s is %s; it must be a whole number from %d to %d', name, tostring(value), low,
      high)
  end
end

local function check_group(name, value, ranks)
  if value == 'all' or value == 'node' then return end
  if type(value) ~= 'number' or value % 1 ~= 0 or value < 1 or value > ranks then
    errors.usage("%s is %s; it must be 'all', 'node' or a whole number of ranks from 1 to %d",
      name, tostring(value), ranks)
  end
end

local function check_above_zero(name, value)
  if type(value) ~= 'number' or not (value > 0 and value < math.huge) then
    errors.usage('%s is %s; it must be a number above 0', name, tostring(value))
  end
end

local function check_travel(o)
  for _, name in ipairs { 'unshard', 'dispatch' } do
    if o[name] ~= 'dtype' and o[name] ~= 'fp8' then
      errors.usage("%s is '%s'; it must be dtype or fp8", name, tostring(o[name]))
    end
  end
  if o.unshard == 'fp8' and o.homes then
    errors.usage 'resident experts do not travel; leave out unshard fp8'
  end
end

local function check_slots(o)
  local ranks, experts = o.machine.ranks, o.model.experts
  check_whole('slots', o.slots, 1, 2 ^ 20)
  if o.slots * ranks < experts then
    errors.usage('slots is %d: %d slots on each of %d ranks; there are %d experts, so it must be '
      .. '%d or more', o.slots, o.slots, ranks, experts, math.ceil(experts / ranks))
  end
end

local function check_trace(o)
  local t, m = o.trace, o.model
  local remedies = {}
  if t.ranks ~= o.machine.ranks then remedies[1] = ('--ranks=%d'):format(t.ranks) end
  if t.layers < o.distinct then remedies[#remedies + 1] = ('--distinct=%d'):format(t.layers) end
  if t.experts ~= m.experts then
    remedies[#remedies + 1] = ('--model of %d experts'):format(t.experts)
  end
  if #remedies > 0 then
    errors.usage('trace %s has %d ranks, %d experts and %d layers; cluster and model want %d, %d '
      .. 'and %d (or more); with %s it fits', t.path, t.ranks, t.experts, t.layers, o.machine.ranks,
      m.experts, o.distinct, table.concat(remedies, ' and '))
  end
end

local function check(o)
  local ranks = o.machine.ranks
  check_whole('parts', o.parts, 1, 1024)
  check_whole('tensor', o.tensor, 1, ranks)
  check_whole('seed', o.seed, 0, 2 ^ 52)
  check_whole('warm_up', o.warm_up, 0, 1e6)
  check_whole('distinct', o.distinct, 1, models.moe_layers(o.model))
  check_group('token_group', o.token_group, ranks)
  o.shard_group, o.homes = shard_group.resolve(o.shard_group, o.ep, ranks)
  if not o.homes then check_group('shard_group', o.shard_group, ranks) end
  check_above_zero('elementwise', o.elementwise)
  check_above_zero('gradient_bytes', o.gradient_bytes)
  if o.routing ~= 'chosen' and o.routing ~= 'balanced' then
    errors.usage("routing is '%s'; it must be chosen or balanced", tostring(o.routing))
  end
  check_travel(o)
  check_slots(o)
  if o.trace then check_trace(o) end
  return o
end

--- How many layers get loads, plans and splits of their own: all, unless that is much work.
local function some_layers(o)
  local cells = o.machine.ranks * o.model.experts
  return math.max(1, math.min(models.moe_layers(o.model), math.floor(CELLS / cells)))
end

--- All options, checked: given's over the defaults, machine and model described, schedule with all
-- fields. Raises USAGE or ARGUMENT (an unknown option).
function options.take(given)
  local o = base.check(given, SPEC, 'simulate', 1)
  o.machine, o.model = clusters.describe(o.cluster), models.describe(o.model)
  o.schedule = schedules.resolve(o.schedule)
  o.slots = o.slots or o.model.slots
  o.distinct = o.distinct or some_layers(o)
  return check(o)
end

return options

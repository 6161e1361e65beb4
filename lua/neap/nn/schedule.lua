-- SPDX-License-Identifier: Apache-2.0

--- Schedules: when expert parameters, gradients and tokens travel, as data (docs/schedules.md). The
-- engine trains by them, and the simulator by the same ones (cluster/program.lua).
--
--   schedule.resolve 'laer'                               -- by name
--   schedule.resolve 'laer:chunks=2,keep=4'               -- with other fields: command lines
--   schedule.resolve { 'laer', chunks = 2, keep = 4 }     -- the same as a table: recipes
--   schedule.resolve { unshard_ahead = 2 }                -- the defaults with one field changed
--
-- The result has all fields. No schedule changes a result: losses are the same to the bit.

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'

local schedule = {}

schedule.fields = {
  unshard_ahead = { default = 1, min = 0,
    doc = 'layers whose parameters are fetched before their turn; 0: when they are needed' },
  unshard_at = { default = 'dispatch', choices = { 'attention', 'dispatch' },
    doc = 'where in a layer the next unshard starts: before its attention, or when its tokens are '
      .. 'on their way' },
  unshard_parts = { default = 1, min = 1,
    doc = "exchanges that a rank's slots travel in; a slot is computed when its part is there" },
  keep = { default = 2, min = 1,
    doc = 'layers whose parameters have buffers: the last so many of a forward need no unshard in '
      .. 'the backward; at least unshard_ahead + 1' },
  hold_reduce = { default = false,
    doc = 'a reduce starts when the tokens of the next backward layer are on their way' },
  wait_reduce = { default = false, doc = 'a reduce is waited for at once' },
  gradients = { default = 2, min = 1,
    doc = 'layers whose gradients have buffers: one is waited for when its buffer is needed' },
  hold_combine = { default = false,
    doc = 'in a backward, tokens travel back after the gradients of weights are computed, not '
      .. 'meanwhile' },
  recompute = { default = false,
    doc = "activations are freed after a layer's forward and computed again in its backward, while "
      .. 'gradients are on their way; what has travelled is kept' },
  chunks = { default = 1, min = 1,
    doc = 'exchanges that tokens travel in, so that some are computed meanwhile' },
}

--- Named schedules: what differs from the defaults.
schedule.named = {
  none = { unshard_ahead = 0, wait_reduce = true },
  eager = { unshard_at = 'attention' },
  laer = { hold_reduce = true },
  neap = { hold_reduce = true, keep = 4, gradients = 4 },
}

local function fail(text, ...)
  errors.usage('schedule: ' .. text, ...)
end

local function check_choice(name, value, choices)
  for _, choice in ipairs(choices) do
    if value == choice then return end
  end
  fail("%s is '%s'%s; there are %s", name, tostring(value),
    lib.hint(tostring(value), choices), table.concat(choices, ', '))
end

local MOST = 1024 -- of chunks and layers

local function check_value(name, value)
  local field = schedule.fields[name]
  if type(value) ~= type(field.default) then
    fail('%s is a %s; it must be a %s', name, type(value), type(field.default))
  elseif field.choices then
    check_choice(name, value, field.choices)
  elseif field.min and (value < field.min or value > MOST or value % 1 ~= 0) then
    fail('%s is %s; it must be a whole number from %d to %d', name, value, field.min, MOST)
  end
end

local function named(name)
  if schedule.named[name] then return schedule.named[name] end
  local names = lib.sorted_keys(schedule.named)
  fail("'%s' is unknown%s; there are %s", tostring(name),
    lib.hint(tostring(name), names), table.concat(names, ', '))
end

--- A value as it was typed, by the field's type.
local function typed(name, text)
  local default = (schedule.fields[name] or {}).default
  if type(default) == 'number' then
    return tonumber(text) or fail("%s is '%s'; it must be a number", name, text)
  elseif type(default) == 'boolean' then
    check_choice(name, text, { 'false', 'true' })
    return text == 'true'
  end
  return text
end

--- 'laer:chunks=2,keep=4' as a table.
local function parse(text)
  local name, rest = text:match '^([^:]*):?(.*)$'
  local result = { name }
  for item in rest:gmatch '[^,]+' do
    local field, value = item:match '^([^=]*)=(.*)$'
    if not field then fail("'%s' in '%s'; a field is name=value", item, text) end
    if result[field] ~= nil then fail("%s is given twice in '%s'", field, text) end
    result[field] = typed(field, value)
  end
  return result
end

local function check_together(result)
  if result.hold_reduce and result.wait_reduce then
    fail('hold_reduce and wait_reduce are both true; one reduce cannot be held back and '
      .. 'waited for at once')
  end
  result.keep = math.max(result.keep, result.unshard_ahead + 1)
  return result
end

--- Names of the fields that a table sets, sorted.
local function given_fields(given)
  local names = {}
  for name in pairs(given) do
    if name ~= 1 then names[#names + 1] = tostring(name) end
  end
  table.sort(names)
  return names
end

--- All fields of a schedule, given by name, text or table. Mistakes are usage errors, with hints.
function schedule.resolve(given)
  if type(given) == 'string' then given = parse(given) end
  if type(given) ~= 'table' then
    fail('it is a %s; it must be a name or a table', type(given))
  end
  local result = {}
  for name, field in pairs(schedule.fields) do result[name] = field.default end
  if given[1] ~= nil then
    for name, value in pairs(named(given[1])) do result[name] = value end
  end
  for _, name in ipairs(given_fields(given)) do
    if not schedule.fields[name] then
      fail("unknown field '%s'%s; there are %s", name,
        lib.hint(name, lib.sorted_keys(schedule.fields)),
        table.concat(lib.sorted_keys(schedule.fields), ', '))
    end
    check_value(name, given[name])
    result[name] = given[name]
  end
  return check_together(result)
end

return schedule

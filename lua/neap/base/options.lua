-- SPDX-License-Identifier: Apache-2.0

--- Tables of options, checked against what is known of them.
--
--   local SPEC = { comm = { needed = true }, seed = { default = 0, min = 0, integer = true },
--     exact = { default = false }, ffn = { type = 'number table' } }
--   local o = options.check(given, SPEC, 'moe')     -- o.seed is 0 if none was given
--
-- Of an option a spec tells, all of it optional: default; needed, that there must be one; type, one
-- or several words (without it, that of the default, or any); for numbers min, max, above (greater
-- than) and integer; choices, a list.

local lib = require 'neap.base.lib'

local options = {}

local function range_of(field)
  local text = field.integer and 'a whole number' or 'a number'
  if field.above then
    text = ('%s above %.14g'):format(text, field.above)
  elseif field.max then
    return ('%s from %.14g to %.14g'):format(text, field.min or -math.huge, field.max)
  elseif field.min then
    text = ('%s of at least %.14g'):format(text, field.min)
  end
  return field.max and ('%s and at most %.14g'):format(text, field.max) or text
end

local function in_range(value, field)
  return type(value) == 'number' and value == value
    and (not field.min or value >= field.min) and (not field.above or value > field.above)
    and value <= (field.max or math.huge) and (not field.integer or value % 1 == 0)
end

local function is_choice(value, choices)
  for _, choice in ipairs(choices) do
    if value == choice then return true end
  end
  return false
end

--- What is wrong with a value, or nil.
local function fault(name, value, field)
  if value == nil then return field.needed and ('%s is missing'):format(name) or nil end
  if field.min or field.max or field.above or field.integer then
    if in_range(value, field) then return nil end
    return ('%s is %s; it must be %s'):format(name, tostring(value), range_of(field))
  end
  if field.choices then
    if is_choice(value, field.choices) then return nil end
    return ("%s is '%s'%s; it must be one of %s"):format(name, tostring(value),
      lib.hint(tostring(value), field.choices), table.concat(field.choices, ', '))
  end
  local wanted = field.type or field.default ~= nil and type(field.default)
  if wanted and not (' ' .. wanted .. ' '):find(' ' .. type(value) .. ' ', 1, true) then
    return ('%s is a %s; it must be a %s'):format(name, type(value), (wanted:gsub(' ', ' or a ')))
  end
end

local function by_text(a, b)
  return tostring(a) < tostring(b)
end

--- What is wrong with given, as text that begins with who, or nil. noun: what its entries are
-- called ('option').
function options.problem(given, spec, who, noun)
  local names, known = {}, lib.sorted_keys(spec)
  for name in pairs(given) do names[#names + 1] = name end
  table.sort(names, by_text)
  for _, name in ipairs(names) do
    if not spec[name] then
      return ("%s: unknown %s '%s'%s; there are %s"):format(who, noun or 'option', tostring(name),
        lib.hint(tostring(name), known), table.concat(known, ', '))
    end
  end
  for _, name in ipairs(known) do
    local wrong = fault(name, given[name], spec[name])
    if wrong then return ('%s: %s'):format(who, wrong) end
  end
end

--- A copy of given with the defaults of what it lacks. Raises ARGUMENT where the function was
-- called that calls this one, or level functions further up.
function options.check(given, spec, who, level)
  local wrong = options.problem(given, spec, who)
  if wrong then lib.raise('ARGUMENT', wrong, 3 + (level or 0)) end
  local result = {}
  for name, field in pairs(spec) do
    local value = given[name]
    if value == nil then value = field.default end
    result[name] = value
  end
  return result
end

return options

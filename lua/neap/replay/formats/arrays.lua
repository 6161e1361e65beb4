-- SPDX-License-Identifier: Apache-2.0

--- Arrays of loads or of choices, whoever has written them, into Counts.
--
--   arrays.add(counts, array, 'loads')
-- An array has shape (a list), ctype (of an element), bytes (of one), name (for messages) and
-- read(count): a pointer to the next so many elements, valid until the next read.
--
--   loads           [steps, layers, ranks, experts]
--   counts          [steps, layers, experts] or [layers, experts]: of all ranks
--   choices         [tokens, layers, K] or [tokens, K]: the experts of every token; below 0: none

local lib = require 'neap.base.lib'

local ffi = lib.ffi

local arrays = {}

local AT_ONCE = 2 ^ 20 -- elements

--- A whole number of tokens, from an integer or a float.
local function whole(counts, value)
  local number = tonumber(value)
  if number < 0 or number % 1 ~= 0 or number > 2 ^ 53 then
    counts:fail('a load is %s; loads are whole numbers from 0', tostring(number))
  end
  return number
end

local function add_loads(counts, array, place)
  local s = array.shape
  local first_step, first_layer = place.step or 0, place.layer or 0
  counts:has_experts(s[4])
  for step = 0, s[1] - 1 do
    for layer = 0, s[2] - 1 do
      local values = array.read(s[3] * s[4])
      for rank = 0, s[3] - 1 do
        local row = counts:row(first_step + step, first_layer + layer, rank)
        for e = 0, s[4] - 1 do counts:add(row, e, whole(counts, values[rank * s[4] + e])) end
      end
    end
  end
end

local function add_counts(counts, array)
  local s = array.shape
  local steps, layers, experts = #s == 3 and s[1] or 1, s[#s - 1], s[#s]
  counts:need_ranks 'it'
  counts:has_experts(experts)
  for step = 0, steps - 1 do
    for layer = 0, layers - 1 do
      local values = array.read(experts)
      for e = 0, experts - 1 do counts:spread(step, layer, e, whole(counts, values[e])) end
    end
  end
end

--- Rows of a layer in a step, by rank.
local function rows_of(counts, step, layer)
  local rows = {}
  for rank = 0, counts.o.ranks - 1 do rows[rank] = counts:row(step, layer, rank) end
  return rows
end

--- The choices of some tokens, each with its rank in ranks.
local function add_block(counts, values, count, layers, k, ranks, rows)
  for token = 0, count - 1 do
    local rank = ranks[token]
    for layer = 0, layers - 1 do
      local row, at = rows[layer][rank], (token * layers + layer) * k
      for i = at, at + k - 1 do
        local expert = tonumber(values[i])
        if expert >= 0 then counts:add(row, expert, 1) end
      end
    end
  end
end

--- A step has place.step_tokens tokens (nil: all).
local function add_choices(counts, array, place)
  local step, layer, step_tokens = place.step or 0, place.layer or 0, place.step_tokens
  local s = array.shape
  local tokens, layers, k = s[1], #s == 3 and s[2] or 1, s[#s]
  counts:need_ranks 'it'
  step_tokens = math.min(step_tokens or tokens, tokens)
  local block = math.max(1, math.floor(AT_ONCE / (layers * k)))
  local ranks = ffi.new('int32_t[?]', math.min(block, step_tokens))
  for at = 0, math.floor(tokens / step_tokens) - 1 do -- a last step that is short is left out
    local rows, deal = {}, counts:dealer(step_tokens)
    for l = 0, layers - 1 do rows[l] = rows_of(counts, step + at, layer + l) end
    for first = 0, step_tokens - 1, block do
      local count = math.min(block, step_tokens - first)
      for i = 0, count - 1 do ranks[i] = deal(first + i) end
      add_block(counts, array.read(count * layers * k), count, layers, k, ranks, rows)
    end
  end
  local rest = tokens % step_tokens
  if rest > 0 then
    counts.notes[#counts.notes + 1] = ('the last %d tokens are no whole step and are left out')
      :format(rest)
    array.read(rest * layers * k)
  end
end

local DIMENSIONS = { loads = { [4] = true }, counts = { [2] = true, [3] = true },
  choices = { [2] = true, [3] = true } }

--- kind: as above. place: step and layer, ids of the first ones in it (0), and step_tokens, how
-- many of the choices' tokens are a step. Raises FORMAT and USAGE.
function arrays.add(counts, array, kind, place)
  place = place or {}
  if not DIMENSIONS[kind][#array.shape] then
    counts:fail('%s has the shape (%s), which is none of %s', array.name,
      table.concat(array.shape, ', '), kind)
  end
  for _, size in ipairs(array.shape) do
    if size < 1 then
      counts:fail('%s has the shape (%s): it is empty', array.name,
        table.concat(array.shape, ', '))
    end
  end
  if kind == 'loads' then return add_loads(counts, array, place) end
  if kind == 'counts' then return add_counts(counts, array) end
  add_choices(counts, array, place)
end

--- An array that a file holds from where it is read on.
function arrays.of_file(file, name, shape, ctype, fail)
  local bytes = ffi.sizeof(ctype)
  local pointer, text = ffi.typeof('const ' .. ctype .. ' *'), nil
  return { name = name, shape = shape, read = function(count)
    text = file:read(count * bytes)
    if not text or #text < count * bytes then fail() end
    return ffi.cast(pointer, text)
  end }
end

return arrays

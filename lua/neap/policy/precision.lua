-- SPDX-License-Identifier: Apache-2.0

--- How layers' experts and tokens travel, where a policy decides it: what its hook precision is
-- told and may answer. { unshard =, dispatch = } of 'dtype' (as they are) or 'fp8'.

local lib = require 'neap.base.lib'

local ffi = lib.ffi

local precision = {}

local KINDS = { 'unshard', 'dispatch' }
local LOSSES = 32 -- that the hook is told, at most

--- Numbers of a request: a wait, how many losses, the losses.
precision.NUMBERS = 2 + LOSSES

--- A word of an answer as 'dtype' or 'fp8'. o: dtype, resident.
local function word(kind, value, o)
  if value == o.dtype then value = 'dtype' end
  if value ~= 'fp8' and value ~= 'dtype' then
    error(("%s is %s; allowed are 'fp8', 'dtype' and what that is here, '%s'"):format(kind,
      type(value) == 'string' and ("'%s'"):format(value) or 'a ' .. type(value), o.dtype), 0)
  end
  if kind == 'unshard' and value == 'fp8' and o.resident then
    error("unshard is 'fp8', but resident experts do not travel in FP8; tokens can: "
      .. "{ dispatch = 'fp8' }", 0)
  end
  return value
end

--- A hook's answer, over what was before: a word for both kinds, a table of some, or nil. o: dtype
-- of the training, resident. Raises a text.
-- : any, table, table -> table
function precision.read(answer, before, o)
  local result = { unshard = before.unshard, dispatch = before.dispatch }
  if type(answer) == 'string' then answer = { unshard = answer, dispatch = answer } end
  if answer == nil then return result end
  if type(answer) ~= 'table' then
    error(("the answer is a %s; it must be 'fp8', 'dtype' or a table of unshard and dispatch")
      :format(type(answer)), 0)
  end
  for _, kind in ipairs(lib.sorted_keys(answer)) do
    if kind ~= 'unshard' and kind ~= 'dispatch' then
      error(("the answer has an unknown field '%s'%s; there are unshard and dispatch"):format(
        tostring(kind), lib.hint(tostring(kind), KINDS)), 0)
    end
    result[kind] = word(kind, answer[kind], o)
  end
  return result
end

--- As one text, and back: nil for what is none.
-- : table -> string
function precision.text(value)
  return value.unshard .. ' ' .. value.dispatch
end

function precision.parse(text)
  local unshard, dispatch = text:match '^(%l+%d?) (%l+%d?)$'
  local known = { fp8 = true, dtype = true }
  if known[unshard] and known[dispatch] then return { unshard = unshard, dispatch = dispatch } end
end

--- What the hook is told, as numbers: losses, a list or series, the newest last; wait_ms or nil.
-- : table -> double[precision.NUMBERS]
function precision.pack(losses, count, wait_ms)
  local numbers = ffi.new('double[?]', precision.NUMBERS)
  local told = math.min(count, LOSSES)
  numbers[0], numbers[1] = wait_ms or -1, told
  for i = 1, told do numbers[1 + i] = losses[count - told + i] end
  return numbers
end

--- Gives a context what the numbers say.
function precision.tell(ctx, numbers, before)
  ctx.losses, ctx.unshard_wait_ms = {}, numbers[0] >= 0 and numbers[0] or nil
  for i = 1, math.min(numbers[1], LOSSES) do ctx.losses[i] = numbers[1 + i] end
  ctx.unshard, ctx.dispatch = before.unshard, before.dispatch
end

return precision

-- SPDX-License-Identifier: Apache-2.0

--- What ranks agree on about things that may fail on some of them: a disk, a file.

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local ffi = lib.ffi

local agreement = {}

local TEXT_BYTES = 2048 -- of an error that is told to all ranks

--- The largest of every rank's numbers, in their order. Collective.
function agreement.most(job, ...)
  local count = select('#', ...)
  local numbers = ffi.new('int64_t[?]', count, ...)
  job.comm:all_reduce(numbers, count, 'i64', 'max')
  local list = {}
  for i = 0, count - 1 do list[i + 1] = tonumber(numbers[i]) end
  return unpack(list)
end

--- The error of the first rank that has one, on all ranks: code and text. Collective.
local function share(job, first, err)
  local buffer = ffi.new('char[?]', TEXT_BYTES)
  if job.rank == first then
    local code = errors.code(err) or 'FAILED'
    local whose = first > 0 and code ~= 'USAGE' and ('rank %d: '):format(first) or ''
    local text = (code .. '\n' .. whose .. errors.text(err)):sub(1, TEXT_BYTES - 1)
    ffi.copy(buffer, text)
  end
  job.comm:broadcast(buffer, TEXT_BYTES, first)
  return ffi.string(buffer):match '^(%w+)\n(.*)$'
end

--- Calls f on all ranks; true if it raised no error anywhere, else false and the text of the first
-- rank's. Mistakes in how the program was called, and in the program, are raised, on all ranks.
-- Collective.
function agreement.try(job, f, ...)
  local ok, err = xpcall(f, errors.handler, ...)
  local mistake = not ok and (not errors.code(err) or errors.code(err) == 'USAGE')
  local first, raised = agreement.most(job, ok and 0 or job.ranks - job.rank, mistake and 1 or 0)
  if first == 0 then return true end
  local code, text = share(job, job.ranks - first, err)
  if raised == 1 then agreement.raise(code, text) end
  return false, text
end

--- Raises an error that all ranks have alike: it is told once.
function agreement.raise(code, message, ...)
  error(setmetatable({ code = code, where = '', everywhere = true,
    message = select('#', ...) > 0 and message:format(...) or message }, lib.Error), 0)
end

--- try of what only rank 0 does.
function agreement.try_on_root(job, f, ...)
  return agreement.try(job, job.rank == 0 and f or function() end, ...)
end

--- A number that rank 0 knows. Collective.
function agreement.from_root(job, number)
  local value = ffi.new('int64_t[1]', job.rank == 0 and number or 0)
  job.comm:broadcast(value, 8)
  return tonumber(value[0])
end

return agreement

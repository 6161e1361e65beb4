-- SPDX-License-Identifier: Apache-2.0

--- GPUs: how many there are, what they are, and the one that the calling rank computes on.

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local device = {}

local SIZE = 512

--- GPUs that CUDA finds.
-- : -> integer
function device.count()
  return C.neap_device_count()
end

--- Name, compute capability and versions of a GPU.
-- : integer -> string
function device.describe(ordinal)
  local buffer = ffi.new('char[?]', SIZE)
  check(C.neap_device_describe(ordinal, buffer, SIZE), 2)
  return ffi.string(buffer)
end

--- Makes a rank that is a thread compute on 'cpu' or 'cuda'; ranks share the GPUs in turn.
-- : string, integer
function device.use(name, rank)
  if name == 'cuda' then
    check(C.neap_device_use(rank % math.max(1, device.count())), 2)
  else
    check(C.neap_device_use(-1), 2)
  end
end

--- Waits for what this rank has enqueued.
function device.wait()
  check(C.neap_device_wait(), 2)
end

--- Two numbers that a function of the engine gives.
local function pair(call)
  local numbers = ffi.new 'int64_t[2]'
  check(call(numbers, numbers + 1), 3)
  return tonumber(numbers[0]), tonumber(numbers[1])
end

--- Free and all bytes of this rank's GPU.
-- : -> integer, integer
function device.memory()
  local free, all = pair(C.neap_device_memory)
  return free, all
end

--- NCCL's version and place, and whether ranks can share a GPU; or why it cannot be used.
-- : -> string
function device.nccl()
  local buffer = ffi.new('char[?]', SIZE)
  local ok, failure = pcall(check, C.neap_nccl_describe(buffer, SIZE))
  return ok and ffi.string(buffer) or failure.message
end

--- Bytes that tensors, shards, buffers and exchanges of this process's ranks hold on this rank's
-- device: now, and at most since forget_most.
-- : -> integer, integer
function device.held()
  local now, most = pair(C.neap_device_held)
  return now, most
end

--- From now on the most is counted anew.
function device.forget_most()
  check(C.neap_device_forget_most(), 2)
end

--- What doctor tells: a list of { name, text }.
-- : -> list of { string, string }
function device.facts()
  local count, list = device.count(), {}
  if count == 0 then
    local ok, failure = pcall(check, C.neap_device_use(0))
    list[1] = { 'gpu', ok and 'none' or failure.message }
  end
  for i = 0, count - 1 do
    list[#list + 1] = { 'gpu ' .. i, device.describe(i) }
  end
  list[#list + 1] = { 'nccl', device.nccl() }
  return list
end

return device

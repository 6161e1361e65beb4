-- SPDX-License-Identifier: Apache-2.0

--- Communicators: groups of ranks that exchange data.
--
--   local total = tensor.of('f64', { loss })
--   comm:all_reduce(total)                          -- sum over all ranks, in place
--   comm:all_gather(mine, all, counts)
--
-- Data are tensors, or FFI pointers and arrays with their type ('f32', …). Counts are lists of one
-- number per rank, or int64_t arrays; ranks count from 0. Every operation is collective and raises
-- an error of code COMM where ranks disagree or one is gone.

local lib = require 'neap.base.lib'
local tensor = require 'neap.engine.tensor'

local ffi, C, check = lib.ffi, lib.C, lib.check

local comm = {}

local Comm = {}
Comm.__index = Comm
comm.Comm = Comm

local REDUCTIONS = { sum = C.NEAP_SUM, max = C.NEAP_MAX, min = C.NEAP_MIN }

local SOURCE = debug.getinfo(1, 'S').source

local out_comm = ffi.new 'neap_comm *[1]'

--- The collector leaves the C side alone: closing is collective, collecting is not.
local function wrap()
  local size = C.neap_comm_size(out_comm[0])
  return setmetatable({
    ptr = out_comm[0], close_ptr = C.neap_comm_close,
    counts = { ffi.new('int64_t[?]', size), ffi.new('int64_t[?]', size) },
  }, Comm)
end

--- Rank `rank` of a world of threads (a neap_world pointer). Collective.
-- : pointer, integer -> Comm
function comm.open_local(world, rank)
  check(C.neap_comm_open_local(world, rank, out_comm), 2)
  return wrap()
end

--- All processes that mpirun started. Collective.
-- : -> Comm
function comm.open_mpi()
  check(C.neap_comm_open_mpi(out_comm), 2)
  return wrap()
end

--- As open_mpi, with NCCL between GPUs; the calling rank computes on its host's next GPU from now
-- on. Collective.
-- : -> Comm
function comm.open_nccl()
  check(C.neap_comm_open_nccl(out_comm), 2)
  return wrap()
end

--- The transport between ranks that compute on a device, 'cpu' or 'cuda': processes that mpirun
-- started, or threads. comm['open_' .. name] opens it.
-- : boolean, string -> string
function comm.transport_of(processes, device)
  if not processes then return 'local' end
  return device == 'cuda' and 'nccl' or 'mpi'
end

--- A communicator of the same ranks with an order of its own. Collective.
-- : -> Comm
function Comm:duplicate()
  check(C.neap_comm_duplicate(self.ptr, out_comm), 2)
  return wrap()
end

--- Ranks that pass the same colour (a whole number) form a communicator. Collective.
-- : integer -> Comm
function Comm:split(colour)
  check(C.neap_comm_split(self.ptr, colour, out_comm), 2)
  return wrap()
end

--- Waits for what was started, then closes. Collective.
function Comm:close()
  lib.close(self)
end

--- This rank.
-- : -> integer
function Comm:rank()
  return C.neap_comm_rank(self.ptr)
end

--- How many ranks there are.
-- : -> integer
function Comm:size()
  return C.neap_comm_size(self.ptr)
end

--- Its transport: the name that transport_of gave for its ranks.
-- : -> string
function Comm:transport()
  return ffi.string(C.neap_comm_transport(self.ptr))
end

-- ---- arguments --------------------------------------------------------------------------------

--- Raises ARGUMENT at the place outside this file that called.
local function refuse(text, ...)
  local level = 2
  while (debug.getinfo(level, 'S') or {}).source == SOURCE do level = level + 1 end
  lib.raise('ARGUMENT', 'comm: ' .. text:format(...), level)
end

local function pointer(data)
  if type(data) == 'table' then return data.pointer end
  return data
end

local function lookup(values, kind, name)
  local code = values[name]
  if code == nil then
    local names = lib.sorted_keys(values)
    refuse("%s '%s' is unknown%s; there are %s", kind, tostring(name),
      lib.hint(tostring(name), names), table.concat(names, ', '))
  end
  return code
end

--- Code of a type by its name, by default that of a tensor.
local function dtype_code(name, data)
  return lookup(tensor.codes, 'type', name or type(data) == 'table' and data.dtype)
end

local function reduction_code(name)
  return lookup(REDUCTIONS, 'reduction', name or 'sum')
end

--- What is given, or for a tensor its own.
local function count_of(count, data)
  if not count and type(data) ~= 'table' then refuse 'a count is needed where data is no tensor' end
  return count or data.count
end

local function bytes_of(bytes, data)
  return bytes or count_of(nil, data) * C.neap_dtype_size(dtype_code(nil, data))
end

--- A list of one count per rank as C takes it: as it is, or written to the communicator's array.
local function counts_array(self, which, list)
  if type(list) ~= 'table' then return list end
  local array, size = self.counts[which], C.neap_comm_size(self.ptr)
  if #list ~= size then
    refuse('a list of %d counts for %d ranks; give one count per rank', #list, size)
  end
  for i = 1, size do array[i - 1] = list[i] end
  return array
end

-- ---- operations -------------------------------------------------------------------------------

--- Waits for all ranks. Collective.
function Comm:barrier()
  check(C.neap_comm_barrier(self.ptr), 2)
end

--- data of so many bytes (a tensor: all of it) from rank root, 0 by default, to all.
-- : pointer or Tensor, integer?, integer?
function Comm:broadcast(data, bytes, root)
  check(C.neap_comm_broadcast(self.ptr, pointer(data), bytes_of(bytes, data), root or 0), 2)
end

--- data in place: count elements, reduced over all ranks by 'sum' (default), 'max' or 'min'.
-- : pointer or Tensor, integer?, string?, string?
function Comm:all_reduce(data, count, dtype, reduction)
  local code, op = dtype_code(dtype, data), reduction_code(reduction)
  check(C.neap_comm_all_reduce(self.ptr, pointer(data), count_of(count, data), code, op), 2)
end

--- Every rank r contributes counts[r] elements at send; recv gets all, in rank order.
-- : pointer, pointer, list, string
function Comm:all_gather(send, recv, counts, dtype)
  check(C.neap_comm_all_gather(self.ptr, pointer(send), pointer(recv),
    counts_array(self, 1, counts), dtype_code(dtype, recv)), 2)
end

--- Rank r gets the reduction of its counts[r] elements of everybody's send in recv.
-- : pointer, pointer, list, string, string?
function Comm:reduce_scatter(send, recv, counts, dtype, reduction)
  local code, op = dtype_code(dtype, send), reduction_code(reduction)
  check(C.neap_comm_reduce_scatter(self.ptr, pointer(send), pointer(recv),
    counts_array(self, 1, counts), code, op), 2)
end

--- send_counts[r] elements to rank r, recv_counts[r] from it, both packed in rank order.
-- : pointer, list, pointer, list, string
function Comm:all_to_all(send, send_counts, recv, recv_counts, dtype)
  check(C.neap_comm_all_to_all(self.ptr, pointer(send), counts_array(self, 1, send_counts),
    pointer(recv), counts_array(self, 2, recv_counts), dtype_code(dtype, send)), 2)
end

return comm

--- Communicators: groups of ranks that exchange data.
--
--   local total = tensor.of('f64', { loss })
--   comm:all_reduce(total)                          -- sum over all ranks, in place
--   local request = comm:all_gather_start(mine, all, counts)
--   …                                               -- progresses meanwhile
--   request:wait()
--
-- Data are tensors, or FFI pointers and arrays with their type ('f32', …). Counts are lists of one
-- number a rank, or int64_t arrays; ranks count from 0. Every operation is collective, has a form
-- that ends in _start and returns a request, and raises an error of code COMM where ranks disagree
-- or one is gone. A started operation keeps its data alive until it has been waited for.

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local comm = {}

local Comm, Request = {}, {}
Comm.__index, Request.__index = Comm, Request
comm.Comm, comm.Request = Comm, Request

local DTYPES = {
  f32 = C.NEAP_F32, f64 = C.NEAP_F64, i32 = C.NEAP_I32, i64 = C.NEAP_I64, bf16 = C.NEAP_BF16,
  u8 = C.NEAP_U8,
}
local REDUCTIONS = { sum = C.NEAP_SUM, max = C.NEAP_MAX, min = C.NEAP_MIN }

local SOURCE = debug.getinfo(1, 'S').source

local out_comm = ffi.new 'neap_comm *[1]'
local out_request = ffi.new 'neap_request *[1]'

--- The collector leaves the C side alone: closing is collective, collecting is not.
local function wrap()
  local size = C.neap_comm_size(out_comm[0])
  return setmetatable({
    ptr = out_comm[0], close_ptr = C.neap_comm_close, pending = {},
    counts = { ffi.new('int64_t[?]', size), ffi.new('int64_t[?]', size) },
  }, Comm)
end

--- Rank `rank` of a world of threads (a neap_world pointer). Collective.
function comm.open_local(world, rank)
  check(C.neap_comm_open_local(world, rank, out_comm), 2)
  return wrap()
end

--- All processes that mpirun started. Collective.
function comm.open_mpi()
  check(C.neap_comm_open_mpi(out_comm), 2)
  return wrap()
end

--- As open_mpi, with NCCL between GPUs; the calling rank computes on its host's next GPU from now
-- on. Collective.
function comm.open_nccl()
  check(C.neap_comm_open_nccl(out_comm), 2)
  return wrap()
end

--- A communicator of the same ranks with an order of its own. Collective.
function Comm:duplicate()
  check(C.neap_comm_duplicate(self.ptr, out_comm), 2)
  return wrap()
end

--- Ranks that pass the same colour (a whole number) form a communicator. Collective.
function Comm:split(colour)
  check(C.neap_comm_split(self.ptr, colour, out_comm), 2)
  return wrap()
end

--- Waits for what was started, then closes. Collective.
function Comm:close()
  lib.close(self)
end

function Comm:rank()
  return C.neap_comm_rank(self.ptr)
end

function Comm:size()
  return C.neap_comm_size(self.ptr)
end

--- 'local', 'mpi' or 'nccl'.
function Comm:transport()
  return ffi.string(C.neap_comm_transport(self.ptr))
end

--- Bytes that this rank has sent to others over this communicator.
function Comm:bytes_sent()
  return tonumber(C.neap_comm_bytes_sent(self.ptr))
end

--- Seconds that callers have waited in blocking operations and in waits.
function Comm:seconds_waited()
  return C.neap_comm_seconds_waited(self.ptr)
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
  return lookup(DTYPES, 'type', name or type(data) == 'table' and data.dtype)
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

--- A list of one count a rank as C takes it: as it is, or written to the communicator's array.
local function counts_array(self, which, list)
  if type(list) ~= 'table' then return list end
  local array, size = self.counts[which], C.neap_comm_size(self.ptr)
  if #list ~= size then
    refuse('a list of %d counts for %d ranks; give one count a rank', #list, size)
  end
  for i = 1, size do array[i - 1] = list[i] end
  return array
end

--- A list of { data =, bytes =, peer = } as C takes it; bytes are a tensor's by default.
local function message_array(list)
  local array = ffi.new('neap_message[?]', #list)
  for i, m in ipairs(list) do
    local to = array[i - 1]
    to.data, to.bytes, to.peer = pointer(m.data), bytes_of(m.bytes, m.data), m.peer
  end
  return array, #list
end

-- ---- operations: out is the place of the request, or nil to block -----------------------------

local operations = {}

function operations.barrier(self, out)
  return out and C.neap_comm_barrier_start(self.ptr, out) or C.neap_comm_barrier(self.ptr)
end

--- data of so many bytes (a tensor: all of it) from rank root, 0 by default, to all.
function operations.broadcast(self, out, data, bytes, root)
  bytes = bytes_of(bytes, data)
  if out then
    return C.neap_comm_broadcast_start(self.ptr, pointer(data), bytes, root or 0, out)
  end
  return C.neap_comm_broadcast(self.ptr, pointer(data), bytes, root or 0)
end

--- data in place: count elements, reduced over all ranks by 'sum' (default), 'max' or 'min'.
function operations.all_reduce(self, out, data, count, dtype, reduction)
  local code, op = dtype_code(dtype, data), reduction_code(reduction)
  count = count_of(count, data)
  if out then
    return C.neap_comm_all_reduce_start(self.ptr, pointer(data), count, code, op, out)
  end
  return C.neap_comm_all_reduce(self.ptr, pointer(data), count, code, op)
end

--- Every rank r contributes counts[r] elements at send; recv gets all, in rank order.
function operations.all_gather(self, out, send, recv, counts, dtype)
  local code, list = dtype_code(dtype, recv), counts_array(self, 1, counts)
  if out then
    return C.neap_comm_all_gather_start(self.ptr, pointer(send), pointer(recv), list, code, out)
  end
  return C.neap_comm_all_gather(self.ptr, pointer(send), pointer(recv), list, code)
end

--- Rank r gets the reduction of its counts[r] elements of everybody's send in recv.
function operations.reduce_scatter(self, out, send, recv, counts, dtype, reduction)
  local code, op = dtype_code(dtype, send), reduction_code(reduction)
  local list = counts_array(self, 1, counts)
  if out then
    return C.neap_comm_reduce_scatter_start(self.ptr, pointer(send), pointer(recv), list, code, op,
      out)
  end
  return C.neap_comm_reduce_scatter(self.ptr, pointer(send), pointer(recv), list, code, op)
end

--- send_counts[r] elements to rank r, recv_counts[r] from it, both packed in rank order.
function operations.all_to_all(self, out, send, send_counts, recv, recv_counts, dtype)
  local code = dtype_code(dtype, send)
  local to, from = counts_array(self, 1, send_counts), counts_array(self, 2, recv_counts)
  if out then
    return C.neap_comm_all_to_all_start(self.ptr, pointer(send), to, pointer(recv), from, code,
      out)
  end
  return C.neap_comm_all_to_all(self.ptr, pointer(send), to, pointer(recv), from, code)
end

--- Lists of messages { data =, bytes =, peer = } to send and to receive; the i-th to a peer pairs
-- with its i-th from here.
function operations.exchange(self, out, sends, recvs)
  local to, to_count = message_array(sends)
  local from, from_count = message_array(recvs)
  if out then
    return C.neap_comm_exchange_start(self.ptr, to, to_count, from, from_count, out)
  end
  return C.neap_comm_exchange(self.ptr, to, to_count, from, from_count)
end

for name, operation in pairs(operations) do
  Comm[name] = function(self, ...)
    check(operation(self, nil, ...), 2)
  end
  Comm[name .. '_start'] = function(self, ...)
    check(operation(self, out_request, ...), 2)
    local request = setmetatable({ ptr = out_request[0], pending = self.pending }, Request)
    self.pending[request] = { ... }
    return request
  end
end

-- ---- requests -----------------------------------------------------------------------------------

--- Blocks until the operation is done; raises its error. To be called once.
function Request:wait()
  local ptr = self.ptr
  if not ptr then
    refuse 'a request was waited for twice'
  end
  self.ptr = nil
  local status = C.neap_request_wait(ptr)
  self.pending[self] = nil
  check(status, 2)
end

--- True if a wait would not block.
function Request:done()
  return self.ptr == nil or C.neap_request_done(self.ptr) == 1
end

return comm

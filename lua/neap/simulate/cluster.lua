-- SPDX-License-Identifier: Apache-2.0

--- Clusters that are only described, and programs for their ranks: how long a step would take.
--
--   local machine = cluster.describe 'a100x32'      -- or a table, or the path of a Lua file
--   local c = cluster.open(machine, topology)
--   local a = c:compute({ name = 'attention', layer = 0 }, 0.012)
--   local x = c:exchange({ name = 'dispatch' }, 'tokens', { ports = bytes, after = { a } })
--   c:run()
--   c:times(x)                                      -- begin, end: double[ranks]
--   c:report()                                      -- { seconds=, ideal=, busy=, exposed=, … }
--   c:critical()                                    -- list of { op=, rank= }, first one first
-- Operations are numbers from 0; c.spans[op] is the label that they were given, with its
-- stream and what it comes after.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local machines = require 'neap.simulate.machines'
local errors = require 'neap.base.errors'
local op_cost = require 'neap.simulate.op_cost'
local timeline = require 'neap.engine.timeline'

local ffi, C = lib.ffi, lib.C

local cluster = { streams = { [0] = 'compute', 'tokens', 'unshard', 'reduce', 'late' } }

local STREAM = { tokens = C.NEAP_TOKENS, unshard = C.NEAP_UNSHARD, reduce = C.NEAP_REDUCE,
  late = C.NEAP_LATE }
local GROUP = { all = C.NEAP_GROUP_ALL, node = C.NEAP_GROUP_NODE }

--- ---- descriptions -----------------------------------------------------------------------------

local SPEC = {
  ranks = { min = 1, max = 2 ^ 20, integer = true, needed = true },
  node_size = { min = 1, max = 2 ^ 20, integer = true, needed = true },
  flops = { above = 0, needed = true }, gemm = { above = 0, max = 1, needed = true },
  attention = { above = 0, max = 1, needed = true }, tile = { min = 0, max = 1e6, needed = true },
  memory = { above = 0, needed = true }, launch = { min = 0, max = 10, needed = true },
  host = { min = 0, max = 10, needed = true }, port = { above = 0, needed = true },
  uplink = { above = 0, needed = true }, elementwise = { above = 0, max = 1000 },
  latency = { min = 0, max = 10, needed = true },
  far_latency = { min = 0, max = 10, needed = true }, capacity = { above = 0, needed = true },
  doc = { type = 'string' }, queued = { type = 'boolean' }, shared = { type = 'boolean' },
  copied = { type = 'boolean' }, speed = { type = 'table' },
  peer = { min = 0, max = 1 }, far_peer = { min = 0, max = 1 }, rates = { type = 'table' },
  interference = { type = 'table' }, deduplicated = { type = 'boolean' },
  plan = { min = 0, max = 1000 }, split = { min = 0, max = 10 }, spans = { type = 'table' },
  collective = { above = 0 },
}

local PEERS = { all = C.NEAP_PEERS_ALL, nodes = C.NEAP_PEERS_NODES }

local function check_speed(where, speed, ranks)
  for _, name in ipairs(lib.sorted_keys(speed)) do
    if type(name) ~= 'number' or name % 1 ~= 0 or name < 1 or name > #speed then
      errors.usage('cluster %s: speed is a list; it has a field %s', where, tostring(name))
    end
  end
  if #speed ~= ranks then
    errors.usage('cluster %s: speed has %d values; there are %d ranks', where, #speed, ranks)
  end
  for i, value in ipairs(speed) do
    if type(value) ~= 'number' or not (value > 0 and value < math.huge) then
      errors.usage('cluster %s: speed of rank %d is %s; it must be a number above 0', where, i - 1,
        tostring(value))
    end
  end
end

local function is_positive(value)
  return type(value) == 'number' and value > 0 and value < math.huge
end

--- rates: a list of { bytes of a message, B/s }, where sizes grow and no message takes less time
-- than a smaller one.
local function check_rates(where, rates)
  local size, seconds = 0, 0
  if #rates > C.NEAP_RATES then
    errors.usage('cluster %s: rates has %d sizes; allowed are up to %d', where, #rates,
      C.NEAP_RATES)
  end
  for name, point in pairs(rates) do
    if type(name) ~= 'number' or name % 1 ~= 0 or name < 1 or name > #rates then
      errors.usage('cluster %s: rates is a list; it has a field %s', where, tostring(name))
    elseif type(point) ~= 'table' or #point ~= 2 or not is_positive(point[1])
      or not is_positive(point[2]) then
      errors.usage('cluster %s: entry %d of rates must be { bytes of a message, B/s }, both above '
        .. '0', where, name)
    end
  end
  for i, point in ipairs(rates) do
    if point[1] <= size or point[1] / point[2] < seconds then
      errors.usage('cluster %s: entry %d of rates: %g bytes at %g B/s; sizes must grow, and no '
        .. 'message take less time than a smaller one', where, i, point[1], point[2])
    end
    size, seconds = point[1], point[1] / point[2]
  end
end

local FACTORS = {}
for _, title in ipairs(op_cost.spans) do FACTORS[title] = { above = 0, max = 1e6 } end

--- spans: by how much the seconds of a span differ from op_cost.lua's.
local function check_spans(where, spans)
  local wrong = options.problem(spans, FACTORS, ('cluster %s: spans'):format(where), 'span')
  if wrong then errors.usage('%s', wrong) end
end

local SHARE = { min = 0, max = 1000 }

--- interference[a][b]: share by which a takes longer while b moves, both names of streams.
local function check_interference(where, interference)
  local streams, shares = {}, {}
  for i = 0, #cluster.streams do
    streams[cluster.streams[i]], shares[cluster.streams[i]] = { type = 'table' }, SHARE
  end
  local title = ('cluster %s: interference'):format(where)
  local wrong = options.problem(interference, streams, title, 'stream')
  for _, name in ipairs(lib.sorted_keys(interference)) do
    wrong = wrong or options.problem(interference[name], shares, ('%s of %s'):format(title, name),
      'stream')
  end
  if wrong then errors.usage('%s', wrong) end
end

--- Raises USAGE, naming field, value and range, unless the description is whole.
local function check(where, machine)
  local wrong = options.problem(machine, SPEC, 'cluster ' .. where, 'field')
  if wrong then errors.usage('%s', wrong) end
  if machine.speed then check_speed(where, machine.speed, machine.ranks) end
  if machine.rates then check_rates(where, machine.rates) end
  if machine.interference then check_interference(where, machine.interference) end
  if machine.spans then check_spans(where, machine.spans) end
  return machine
end

--- Names of the machines in simulate/machines.lua, sorted.
-- : -> list of string
function cluster.names()
  return lib.sorted_keys(machines)
end

local function load_file(path)
  local chunk, why = loadfile(path)
  if not chunk then errors.usage('cluster %s', why) end
  local ok, machine = pcall(chunk)
  if not ok then errors.usage('cluster %s', errors.in_file(path, machine)) end
  if type(machine) ~= 'table' then
    errors.usage('cluster %s: the file must return a table', path)
  end
  return machine
end

--- A machine: a name, the path of a Lua file, or a table; changes: fields that differ. Raises
-- USAGE.
-- : string or table, table? -> table
function cluster.describe(what, changes)
  local base = what
  if type(what) == 'string' then
    base = machines[what]
    if not base and (what:find '/' or what:find '%.lua$') then base = load_file(what) end
    if not base then
      errors.usage("unknown cluster '%s'%s; known are %s, or the path of a Lua file", what,
        lib.hint(what, cluster.names()), table.concat(cluster.names(), ', '))
    end
  end
  local machine = { queued = false }
  for name, value in pairs(base) do machine[name] = value end
  for name, value in pairs(changes or {}) do machine[name] = value end
  return check(type(what) == 'string' and what or '(a table)', machine)
end

--- ---- programs ---------------------------------------------------------------------------------

local Cluster = {}
Cluster.__index = Cluster

local function links_of(machine)
  local links = ffi.new 'neap_links'
  links.port, links.uplink = machine.port, machine.uplink
  links.latency, links.far_latency = machine.latency, machine.far_latency
  links.queued = machine.queued and 1 or 0
  links.peer, links.far_peer = machine.peer or 0, machine.far_peer or machine.peer or 0
  local rates = machine.rates or {}
  links.rates = #rates
  for i, point in ipairs(rates) do
    links.sizes[i - 1], links.rate[i - 1] = point[1], point[2]
  end
  for a = 0, #cluster.streams do
    local of = (machine.interference or {})[cluster.streams[a]] or {}
    for b = 0, #cluster.streams do
      links.interference[a][b] = of[cluster.streams[b]] or 0
    end
  end
  return links
end

--- topology: of as many ranks as the machine has. Raises ARGUMENT.
-- : table, Topology -> Cluster
function cluster.open(machine, topology)
  if topology.ranks ~= machine.ranks then
    lib.raise('ARGUMENT', ('cluster: a topology of %d ranks; the machine has %d'):format(
      topology.ranks, machine.ranks), 2)
  end
  local out = ffi.new 'neap_cluster *[1]'
  lib.check(C.neap_cluster_open(topology.ptr, links_of(machine), out), 2)
  local self = lib.handle(Cluster, out[0], C.neap_cluster_close)
  self.machine, self.topology, self.spans = machine, topology, {}
  self.id, self.after = ffi.new 'int32_t[1]', ffi.new 'int32_t[8]'
  self.first, self.second = ffi.new 'const double *[1]', ffi.new 'const double *[1]'
  self.figures, self.span = ffi.new 'neap_cluster_figures', ffi.new 'neap_cluster_span'
  return self
end

--- Forgets all operations.
function Cluster:clear()
  C.neap_cluster_clear(self.ptr)
  self.spans = {}
end

local function take_after(self, after)
  local count = after and #after or 0
  for i = 1, count do self.after[i - 1] = after[i] end
  return count
end

local function label(self, span, stream, after)
  local op = self.id[0]
  span.stream, span.after = stream, after or {}
  self.spans[op] = span
  return op
end

--- Every rank computes for seconds, and each[rank] (double[ranks]) more; divided by its speed.
-- after: list of operations.
-- : integer, number, double[ranks]?, list? -> integer
function Cluster:compute(span, seconds, each, after)
  local count = take_after(self, after)
  lib.check(C.neap_cluster_compute(self.ptr, seconds, each, self.after, count, self.id), 2)
  return label(self, span, 'compute', after)
end

--- o: ports (double[ranks]) and uplinks (double[nodes]), bytes; group: 'all', 'node' or a
-- number of ranks; peers: 'all', if every rank sends a message to each of its group, 'nodes', if to
-- each of its node and one to every other node, or nil, a collective; delay: seconds besides the
-- latency; after.
-- : integer, integer, table -> integer
function Cluster:exchange(span, stream, o)
  local count = take_after(self, o.after)
  local group = o.group or 'all'
  local peers = PEERS[o.peers] or C.NEAP_PEERS_NONE
  lib.check(C.neap_cluster_exchange(self.ptr, STREAM[stream], GROUP[group] or group, peers,
    o.delay or 0, o.ports, o.uplinks, self.after, count, self.id), 2)
  return label(self, span, stream, o.after)
end

--- Simulates what has been described since clear. Raises ARGUMENT.
-- : -> Cluster
function Cluster:run()
  lib.check(C.neap_cluster_run(self.ptr), 2)
  return self
end

--- begin[ranks], end[ranks] of an operation, the cluster's own.
-- : integer -> double[ranks], double[ranks]
function Cluster:times(op)
  lib.check(C.neap_cluster_times(self.ptr, op, self.first, self.second), 2)
  return self.first[0], self.second[0]
end

--- Seconds of the step, and means over ranks: ideal, busy by stream, exposed by what is waited for
-- (neap.engine.timeline); last = { op=, rank= }.
-- : -> table
function Cluster:report()
  local f = self.figures
  lib.check(C.neap_cluster_report(self.ptr, f), 2)
  local busy = {}
  for i = 0, C.NEAP_STREAMS - 1 do busy[cluster.streams[i]] = f.busy[i] end
  return {
    seconds = f.seconds, ideal = f.ideal, busy = busy, exposed = timeline.exposed(f.exposed),
    last = { op = f.last_op, rank = f.last_rank },
  }
end

--- Waits of a rank's compute stream: list of { begin =, finish =, op = that waits (nil: the end of
-- the step is waited for), waits_for = stream or nil }.
-- : integer -> list of table
function Cluster:waits(rank)
  local count = ffi.new 'int64_t[1]'
  lib.check(C.neap_cluster_waits(self.ptr, rank, nil, 0, count), 2)
  local length, list = tonumber(count[0]), {}
  local spans = ffi.new('neap_span[?]', length)
  lib.check(C.neap_cluster_waits(self.ptr, rank, spans, length, count), 2)
  for i = 1, length do
    local span = spans[i - 1]
    list[i] = { begin = span.begin, finish = span['end'], op = span.step >= 0
      and tonumber(span.step) or nil, waits_for = cluster.streams[span.waits_for] }
  end
  return list
end

--- Mean seconds of an operation over ranks, and the most.
-- : integer -> number, number
function Cluster:operation(op)
  lib.check(C.neap_cluster_operation(self.ptr, op, self.span), 2)
  return self.span.mean, self.span.most
end

--- The chain of operations that makes the step as long as it is: list of { op=, rank= }.
-- : -> list of table
function Cluster:critical()
  local count = ffi.new 'int64_t[1]'
  lib.check(C.neap_cluster_critical(self.ptr, nil, nil, 0, count), 2)
  local length = tonumber(count[0])
  local ops, ranks = ffi.new('int32_t[?]', length), ffi.new('int32_t[?]', length)
  lib.check(C.neap_cluster_critical(self.ptr, ops, ranks, length, count), 2)
  local list = {}
  for i = 1, length do
    list[i] = { op = ops[length - i], rank = ranks[length - i] }
  end
  return list
end

--- Frees the cluster.
function Cluster:close()
  lib.close(self)
end

return cluster

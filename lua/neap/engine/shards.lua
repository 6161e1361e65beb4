-- SPDX-License-Identifier: Apache-2.0

--- The FSEP store of one layer's experts: parameters, moments and gradients cut over the ranks.
--
--   local store = shards.open { comm =, topology =, sizes = { 300, 300, 120 }, group = 'node' }
--   store:normal(expert, 0, 300, seed, stream, 0.1)
--   store:refresh()                                    -- collective, after parameters have changed
--   local transfer = store:unshard_start(layout, buffer)
--   …
--   transfer:wait()                                    -- buffer holds the experts of the layout
--
-- All but the local calls (normal, set, adamw, the counts) are collective. Experts count from 0.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local tensor = require 'neap.engine.tensor'

local ffi, C, check = lib.ffi, lib.C, lib.check

local shards = {}

local Shards, Transfer = {}, {}
Shards.__index, Transfer.__index = Shards, Transfer
shards.Shards = Shards

local PARTS = {
  parameter = C.NEAP_SHARD_PARAMETER, moment1 = C.NEAP_SHARD_MOMENT1,
  moment2 = C.NEAP_SHARD_MOMENT2, gradient = C.NEAP_SHARD_GRADIENT,
}
local GROUPS = { all = C.NEAP_GROUP_ALL, node = C.NEAP_GROUP_NODE,
  resident = C.NEAP_GROUP_RESIDENT }
local SPEC = {
  comm = { needed = true }, reduces = {}, topology = { needed = true },
  dtype = { default = 'f32', choices = tensor.reals }, exact = {},
  travel = { default = 'dtype', choices = { 'dtype', 'fp8', 'either' } },
  sizes = { type = 'table', needed = true }, group = { default = 'all', type = 'string number' },
}

local TRAVELS = { dtype = C.NEAP_TRAVEL_DTYPE, fp8 = C.NEAP_TRAVEL_E4M3,
  either = C.NEAP_TRAVEL_EITHER }

local out_shards = ffi.new 'neap_shards *[1]'
local out_transfer = ffi.new 'neap_transfer *[1]'
local number = ffi.new 'double[1]'
local pair = ffi.new 'double[2]'
local traffic = ffi.new 'neap_shard_traffic'

--- A value by its name; raises ARGUMENT at the caller's caller, with the names there are.
local function lookup(values, kind, name)
  if values[name] == nil then
    local names = lib.sorted_keys(values)
    lib.raise('ARGUMENT', ("shards: %s '%s' is unknown%s; there are %s"):format(kind,
      tostring(name), lib.hint(tostring(name), names), table.concat(names, ', ')), 3)
  end
  return values[name]
end

--- A part's number by its name.
-- : string -> integer
function shards.part(name)
  return lookup(PARTS, 'part', name)
end

--- comm: a communicator of the topology's ranks, for this store's transfers (stores that take turns
-- may share one). reduces: another one, for gradients, which then need not wait for unshards.
-- sizes: parameters of each expert, a list. dtype: of what unshard brings, 'f32' (default), 'f64'
-- or 'bf16'; beside bf16, master parameters, moments and gradients are f32. travel: how they do in
-- unshards, 'dtype', 'fp8' (E4M3; neap.h), or 'either', as set_travel says, at first 'dtype'.
-- exact: gradients to reduce are F64. group: 'all' (default), 'node', ranks per shard group, or
-- 'resident': experts stay whole at home (topology.homes); moe:set_shards lets a layer compute with
-- them there.
-- : table -> Shards
function shards.open(given)
  local o = options.check(given, SPEC, 'shards')
  local experts, group = C.neap_topology_experts(o.topology.ptr), o.group
  if #o.sizes ~= experts then
    lib.raise('ARGUMENT', ('shards: %d sizes for %d experts'):format(#o.sizes, experts), 2)
  end
  check(C.neap_shards_open(o.comm.ptr, o.topology.ptr, tensor.codes[o.dtype],
    TRAVELS[o.travel], o.exact and 1 or 0,
    ffi.new('int64_t[?]', experts, o.sizes),
    type(group) == 'number' and group or lookup(GROUPS, 'shard group', group), out_shards), 2)
  local self = lib.handle(Shards, out_shards[0], C.neap_shards_close)
  self.comm, self.dtype, self.exact, self.pending = o.comm, o.dtype, o.exact, {}
  self.sizes, self.travel = o.sizes, o.travel == 'either' and 'dtype' or o.travel
  if o.reduces then check(C.neap_shards_reduce_over(self.ptr, o.reduces.ptr), 2) end
  return self
end

--- Waits for transfers under way, then closes. Local.
function Shards:close()
  lib.close(self)
end

--- Parameters of the largest expert: columns of the slots' buffers.
-- : -> integer
function Shards:slot_size()
  return tonumber(C.neap_shards_slot_size(self.ptr))
end

--- Parameters of all experts together.
-- : -> integer
function Shards:count()
  return tonumber(C.neap_shards_count(self.ptr))
end

--- From now on parameters travel as they are ('dtype') or in FP8 ('fp8'); of a store of 'either',
-- between steps. Collective, since a refresh follows.
-- : string
function Shards:set_travel(travel)
  if travel == self.travel then return end
  check(C.neap_shards_set_travel(self.ptr, TRAVELS[travel]), 2)
  self.travel = travel
  self:refresh()
end

--- What the ranges of its ranks are cut at multiples of.
-- : -> integer
function Shards:granule()
  return tonumber(C.neap_shards_granule(self.ptr))
end

--- Parameters first to first + count - 1 of an expert become scale x normal(seed, stream, 0 …).
-- : integer, integer, integer, integer, integer, number
function Shards:normal(expert, first, count, seed, stream, scale)
  check(C.neap_shards_normal(self.ptr, expert, first, count, seed, stream, scale), 2)
end

--- Takes over a whole expert from value; part: 'parameter', 'moment1', 'moment2' or 'gradient'.
-- : string, integer, Tensor
function Shards:set(part, expert, value)
  check(C.neap_shards_set(self.ptr, lookup(PARTS, 'part', part), expert, value.ptr), 2)
end

--- Elements of this rank's ranges of all experts; and values for them, an array of the master's
-- type in host memory, one expert after the other. Local, as set.
-- : -> integer, array
function Shards:owned()
  return tonumber(C.neap_shards_owned(self.ptr))
end

--- Takes over this rank's ranges of a part from values, as owned describes them. Local.
-- : string, array
function Shards:put(part, values)
  check(C.neap_shards_put(self.ptr, shards.part(part), values, self:owned()), 2)
end

--- The other way round: fills values with this rank's ranges of a part. Local.
-- : string, array
function Shards:take(part, values)
  check(C.neap_shards_take(self.ptr, shards.part(part), values, self:owned()), 2)
end

--- Fills value with a whole expert, on every rank.
-- : string, integer, Tensor -> Tensor
function Shards:get(part, expert, value)
  check(C.neap_shards_get(self.ptr, lookup(PARTS, 'part', part), expert, value.ptr), 2)
  return value
end

-- ---- transfers ----------------------------------------------------------------------------------

--- The transfer just started; what it works on stays alive until it has been waited for.
local function started(self, ...)
  local transfer = setmetatable({ ptr = out_transfer[0], pending = self.pending }, Transfer)
  self.pending[transfer] = { ... }
  return transfer
end

--- Starts to fill buffer (slots of this rank, slot_size) with the experts of a layout, in so many
-- parts, 1 by default.
-- : Layout, Tensor, integer? -> Transfer
function Shards:unshard_start(layout, buffer, parts)
  check(C.neap_shards_unshard_start(self.ptr, layout.ptr, buffer.ptr, parts or 1, out_transfer), 2)
  return started(self, buffer)
end

--- The same where buffer has the experts of layout base, which have been waited for: only slots
-- with another expert get theirs.
-- : Layout, Layout, Tensor -> Transfer
function Shards:unshard_changes_start(base, layout, buffer)
  check(C.neap_shards_unshard_changes_start(self.ptr, base.ptr, layout.ptr, buffer.ptr,
    out_transfer), 2)
  return started(self, buffer)
end

--- Starts to sum the gradients of all replicas that had tokens at their owners; with accumulate on
-- top of what is there. slot_tokens: int64_t array, of all slots.
-- : Layout, Tensor, int64_t[slots], boolean? -> Transfer
function Shards:reduce_start(layout, gradients, slot_tokens, accumulate)
  check(C.neap_shards_reduce_start(self.ptr, layout.ptr, gradients.ptr, slot_tokens,
    accumulate and 1 or 0, out_transfer), 2)
  return started(self, gradients)
end

--- Starts to bring the shard groups' parameters up to date.
-- : -> Transfer
function Shards:refresh_start()
  check(C.neap_shards_refresh_start(self.ptr, out_transfer), 2)
  return started(self)
end

--- Brings the shard groups' parameters up to date.
function Shards:refresh()
  self:refresh_start():wait()
end

--- Blocks until the transfer is done; raises its error. To be called once.
function Transfer:wait()
  local ptr = self.ptr
  if not ptr then
    lib.raise('ARGUMENT', 'shards: a transfer was waited for twice', 2)
  end
  self.ptr, self.pending[self] = nil, nil
  check(C.neap_transfer_wait(ptr), 2)
end

-- ---- optimizer ----------------------------------------------------------------------------------

--- Sum of squares of the gradients of all experts; with exact, the same bits on any number of
-- ranks. Collective.
-- : -> number
function Shards:sum_squares()
  if not self.exact then
    check(C.neap_shards_square_sum(self.ptr, number), 2)
    self.comm:all_reduce(number, 1, 'f64')
    return number[0]
  end
  check(C.neap_shards_gradient_max(self.ptr, number), 2)
  self.comm:all_reduce(number, 1, 'f64', 'max')
  pair[0], pair[1] = 0, 0
  check(C.neap_shards_exact_square_sum(self.ptr, number[0], self:count(), pair), 2)
  self.comm:all_reduce(pair, 2, 'f64')
  return pair[0] + pair[1]
end

--- One step of AdamW; settings: a neap_adamw. Local; a refresh follows.
-- : neap_adamw
function Shards:adamw(settings)
  check(C.neap_shards_adamw(self.ptr, settings), 2)
end

--- Bytes that this rank has sent to others, by kind, and of them to other nodes: { unshard =,
-- unshard_inter =, and the same of late (unshards of changes), reduce and refresh }.
-- : -> table
function Shards:traffic()
  check(C.neap_shards_traffic(self.ptr, traffic), 2)
  local result = {}
  for _, name in ipairs { 'unshard', 'late', 'reduce', 'refresh' } do
    result[name] = tonumber(traffic[name])
    result[name .. '_inter'] = tonumber(traffic[name .. '_inter'])
  end
  return result
end

return shards

-- SPDX-License-Identifier: Apache-2.0

--- One rank of moe_spec.lua, run with (rank, ranks, world, FILE) on threads, (FILE) under mpirun:
-- one exact step of a layer of three experts over 24 tokens in all. Rank 0 writes what must not
-- depend on the number of ranks to FILE, as hexadecimal floats; every rank checks what it can.

local rank, ranks, world, path = ...
path = path or rank

local lib = require 'neap.base.lib'
local comm = require 'neap.engine.comm'
local moe = require 'neap.engine.moe'
local shards = require 'neap.engine.shards'
local tensor = require 'neap.engine.tensor'

local ffi, C, check = lib.ffi, lib.C, lib.check

local TOKENS, HIDDEN, FFN, SEED = 24, 6, { 5, 9, 4 }, 7

local function expect(condition, what)
  if not condition then error(('rank %d of %d: %s'):format(rank, ranks, what), 2) end
end

--- Two slots per rank (three if alone), nodes of two ranks, expert s mod 3 in slot s.
local function open_layout()
  local slots_of, node_of = ffi.new('int32_t[?]', ranks), ffi.new('int32_t[?]', ranks)
  for r = 0, ranks - 1 do
    slots_of[r], node_of[r] = ranks == 1 and 3 or 2, math.floor(r / 2)
  end
  local topology, layout = ffi.new 'neap_topology *[1]', ffi.new 'neap_layout *[1]'
  check(C.neap_topology_open(ranks, 3, node_of, slots_of, nil, nil, topology))
  check(C.neap_layout_open(topology[0], layout))
  local slots = C.neap_topology_slots(topology[0])
  local expert_of = ffi.new('int32_t[?]', slots)
  for s = 0, slots - 1 do expert_of[s] = s % 3 end
  check(C.neap_layout_set(layout[0], expert_of))
  return lib.handle({}, topology[0], C.neap_topology_close),
    lib.handle({}, layout[0], C.neap_layout_close), slots_of[0]
end

local function open_split(topology, layout, load)
  local split = ffi.new 'neap_split *[1]'
  check(C.neap_split_open(topology.ptr, 'lite', split))
  check(C.neap_split_compute(split[0], layout.ptr, load))
  return lib.handle({}, split[0], C.neap_split_close)
end

local group = world and comm.open_local(ffi.cast('neap_world *', world), rank) or comm.open_mpi()
rank, ranks = group:rank(), group:size()
local topology, layout, slots = open_layout()
local for_shards = group:duplicate()

local sizes = {}
for e, f in ipairs(FFN) do sizes[e] = 3 * HIDDEN * f end
local store = shards.open { comm = for_shards, topology = topology, sizes = sizes, exact = true,
  group = ranks > 1 and 'node' or 'all' }
for e = 0, 2 do store:normal(e, 0, sizes[e + 1], SEED, e, 0.4) end
store:refresh()
expect(store:count() == 3 * HIDDEN * 18 and store:slot_size() == 3 * HIDDEN * 9, 'sizes')

local layer = moe.open { comm = group, topology = topology, hidden = HIDDEN, ffn = FFN, top_k = 2,
  exact = true, aux_loss = 0.1 }
local count = TOKENS / ranks
local function tokens(stream)
  return tensor.new('f32', count, HIDDEN):normal(SEED, stream, rank * count * HIDDEN)
end
local x, dy, router = tokens(10), tokens(11), tensor.new('f32', HIDDEN, 3):normal(SEED, 12)
local weights, gradients = tensor.new('f32', slots, store:slot_size()),
  tensor.new('f64', slots, store:slot_size())
local y, dx = tensor.new('f32', count, HIDDEN), tensor.new('f32', count, HIDDEN)
local drouter = tensor.zeros('f64', HIDDEN, 3)

local fetch = store:unshard_start(layout, weights)
layer:route(x, router)
local load, sum = layer:load(), 0
for i = 0, 3 * ranks - 1 do sum = sum + tonumber(load[i]) end
expect(sum == 2 * TOKENS, 'load')
layer:dispatch(x, layout, open_split(topology, layout, load))
fetch:wait()
local ok, err = pcall(fetch.wait, fetch)
expect(not ok and err.message:find 'waited for twice', 'a second wait')
layer:forward(weights, y)
layer:backward_dispatch(dy)
layer:backward(x, router, weights, gradients, dx, drouter)
store:reduce_start(layout, gradients, layer:slot_tokens()):wait()
group:all_reduce(drouter)

local cost, traffic = layer:cost(), store:traffic()
expect(cost.experts > 0, 'costs')
expect((cost.sent > 0) == (ranks > 1), 'bytes sent')
expect(traffic.unshard_inter == 0 and (ranks < 3 or traffic.refresh > 0), 'traffic')

local lines = { ('%a'):format(layer:aux_loss()), ('%a'):format(store:sum_squares()) }
local function write(t)
  for i = 0, t.count - 1 do lines[#lines + 1] = ('%a'):format(t.pointer[i]) end
end
local function gather(t)
  local counts, all = {}, tensor.new('f32', TOKENS, HIDDEN)
  for r = 1, ranks do counts[r] = t.count end
  group:all_gather(t, all, counts)
  write(all)
end
gather(y)
gather(dx)
write(drouter)
store:adamw(ffi.new('neap_adamw', { rate = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8,
  grad_scale = 1, step = 1 }))
store:refresh()
for e = 0, 2 do
  write(store:get('gradient', e, tensor.new('f32', sizes[e + 1])))
  write(store:get('parameter', e, tensor.new('f32', sizes[e + 1])))
end
if rank == 0 then
  local file = assert(io.open(path, 'w'))
  file:write(table.concat(lines, '\n'), '\n')
  file:close()
end
layer:close()
store:close()
for_shards:close()
group:close()
return 0

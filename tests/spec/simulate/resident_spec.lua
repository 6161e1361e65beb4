-- SPDX-License-Identifier: Apache-2.0

--- Experts that stay at home, in the simulator: what travels, and what a step of it looks like.

local clusters = require 'neap.simulate.cluster'
local layouts = require 'neap.engine.layout'
local lib = require 'neap.base.lib'
local simulate = require 'neap.simulate'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C

local function random(seed, index, limit)
  return tonumber(C.neap_random_bits(seed, 5, index) % limit)
end

--- A topology with homes whose slots differ, a layout, another one, and tokens of slots.
local function problem(seed)
  local run, runs = 1 + random(seed, 0, 4), 1 + random(seed, 1, 3)
  local p = { ranks = run * runs, run = run, experts = 1 + random(seed, 2, 6) }
  local slots, node_size = {}, 1 + random(seed, 3, 4)
  for rank = 1, p.ranks do
    slots[rank] = math.ceil(p.experts / run) + random(seed, 10 + rank, 3)
  end
  p.topology = topologies.open { ranks = p.ranks, node_size = node_size, slots = slots,
    experts = p.experts, homes = run }
  local function layout(stream)
    local list = {}
    for s = 1, p.topology.slots do
      list[s] = s <= p.experts and s - 1 or random(seed, stream + s, p.experts)
    end
    return layouts.open(p.topology):set(list), list
  end
  p.layout, p.now = layout(1000)
  p.base, p.before = layout(2000)
  p.tokens, p.bytes = ffi.new('int64_t[?]', p.topology.slots), ffi.new('double[?]', p.experts)
  for s = 0, p.topology.slots - 1 do p.tokens[s] = random(seed, 3000 + s, 3) end
  for e = 0, p.experts - 1 do p.bytes[e] = 1 + random(seed, 4000 + e, 100) end
  return p
end

--- The home of an expert in the run that a rank is in, from what homes are.
local function home(p, expert, rank)
  local first_slot, begin = p.topology.first_slot, rank - rank % p.run
  local slots = first_slot[begin + p.run] - first_slot[begin]
  for r = begin, begin + p.run - 1 do
    local from = math.floor((first_slot[r] - first_slot[begin]) * p.experts / slots)
    local past = math.floor((first_slot[r + 1] - first_slot[begin]) * p.experts / slots)
    if expert >= from and expert < past then return r end
  end
end

--- Ports and uplinks of a list of messages { from, to, bytes }.
local function links(p, messages)
  local t, into, out = p.topology, {}, {}
  local function add(list, key, bytes) list[key] = (list[key] or 0) + bytes end
  for _, m in ipairs(messages) do
    if m[1] ~= m[2] then
      add(out, m[1], m[3])
      add(into, m[2], m[3])
      if t:node_of(m[1]) ~= t:node_of(m[2]) then
        add(out, 'node' .. t:node_of(m[1]), m[3])
        add(into, 'node' .. t:node_of(m[2]), m[3])
      end
    end
  end
  local ports, uplinks = {}, {}
  for r = 0, t.ranks - 1 do ports[r + 1] = math.max(into[r] or 0, out[r] or 0) end
  for n = 0, t.nodes - 1 do
    uplinks[n + 1] = math.max(into['node' .. n] or 0, out['node' .. n] or 0)
  end
  return ports, uplinks
end

local function check(p, messages, call)
  local t = p.topology
  local ports, uplinks = ffi.new('double[?]', t.ranks), ffi.new('double[?]', t.nodes)
  assert.are.equal(0, call(ports, uplinks), ffi.string(C.neap_error_message()))
  local expected_ports, expected_uplinks = links(p, messages)
  for r, bytes in ipairs(expected_ports) do assert.is_near(bytes, ports[r - 1], 1e-9) end
  for n, bytes in ipairs(expected_uplinks) do assert.is_near(bytes, uplinks[n - 1], 1e-9) end
end

--- Calls f(rank, slot from 1, expert) for the slots of a list.
local function each_slot(p, list, f)
  for s, expert in ipairs(list) do
    for rank = 0, p.ranks - 1 do
      if s - 1 >= p.topology.first_slot[rank] and s - 1 < p.topology.first_slot[rank + 1] then
        f(rank, s, expert)
      end
    end
  end
end

local function fetched(p, before)
  local messages, has = {}, {}
  each_slot(p, before or {}, function(rank, _, e) has[rank .. ' ' .. e] = true end)
  each_slot(p, p.now, function(rank, _, e)
    if not has[rank .. ' ' .. e] then
      messages[#messages + 1] = { home(p, e, rank), rank, p.bytes[e] }
    end
    has[rank .. ' ' .. e] = true
  end)
  return messages
end

local function returned(p, accumulate)
  local messages = {}
  each_slot(p, p.now, function(rank, s, e)
    if p.tokens[s - 1] == 0 then return end
    for first = 0, p.ranks - 1, p.run do
      if not accumulate then
        messages[#messages + 1] = { rank, home(p, e, first), p.bytes[e] * p.run / p.ranks }
      elseif first == rank - rank % p.run then
        messages[#messages + 1] = { rank, home(p, e, rank), p.bytes[e] }
      end
    end
  end)
  return messages
end

local function gathered(p)
  local messages = {}
  for e = 0, p.experts - 1 do
    for from = 0, p.ranks - 1, p.run do
      for to = 0, p.ranks - 1, p.run do
        messages[#messages + 1] = { home(p, e, from), home(p, e, to),
          p.bytes[e] * p.run / p.ranks }
      end
    end
  end
  return messages
end

describe('traffic of resident experts', function()
  it('is that of the messages between slots and homes', function()
    local RESIDENT = C.NEAP_GROUP_RESIDENT
    for seed = 1, 60 do
      local p = problem(seed)
      local l, t = p.layout.ptr, p.topology.ptr
      check(p, fetched(p), function(...)
        return C.neap_layout_traffic(l, nil, p.bytes, RESIDENT, ...)
      end)
      check(p, fetched(p, p.before), function(...)
        return C.neap_layout_traffic(l, p.base.ptr, p.bytes, RESIDENT, ...)
      end)
      for accumulate = 0, 1 do
        check(p, returned(p, accumulate == 1), function(...)
          return C.neap_layout_return_traffic(l, p.tokens, p.bytes, accumulate, ...)
        end)
      end
      check(p, gathered(p), function(...)
        return C.neap_topology_gather_traffic(t, p.bytes, ...)
      end)
    end
  end)

  it('is refused where experts have no homes', function()
    local t = topologies.open { ranks = 2, slots = 2, experts = 2 }
    local ports = ffi.new 'double[2]'
    assert.are_not.equal(0, C.neap_topology_gather_traffic(t.ptr, ports, ports, ports))
    assert.matches('have no homes', ffi.string(C.neap_error_message()))
  end)
end)

local MODEL = { hidden = 512, ffn = 1024, experts = 8, top_k = 2, slots = 2, layers = 3, heads = 8,
  kv_heads = 4, sequence = 512, tokens = 2048, micro_batches = 2, vocabulary = 1000 }

local function run(options)
  local all = { model = MODEL,
    cluster = clusters.describe('a100x8', { ranks = 8, node_size = 4, uplink = 5e9 }) }
  for name, value in pairs(options) do all[name] = value end
  local s = simulate.open(all)
  local row, count = s:run(2), {}
  for op = 0, #s.cluster.spans do
    local span = s.cluster.spans[op]
    local key = span.stream .. ' ' .. span.name
    count[key] = (count[key] or 0) + 1
  end
  s:close()
  return row, count
end

describe('a simulated step of resident experts', function()
  it('unshards nothing, and sums gradients over the homes of an expert', function()
    local row, count = run { policy = 'static', shard_group = 'resident', ep = 4 }
    assert.is_nil(row.bytes_per_step)
    assert.is_nil(count['unshard unshard'])
    assert.are.equal(3, count['reduce reduce']) -- of the last micro-batch
    assert.are.equal(1, count['unshard refresh'])
    count = select(2, run { policy = 'static', shard_group = 'resident', slots = 1 })
    assert.is_nil(count['unshard unshard'] or count['reduce reduce'] or count['unshard refresh'])
  end)

  it('fetches late what changes, and from the node where the balancer stays there', function()
    local near, count = run { policy = 'ultraep:on=current,domain=node', shard_group = 'resident' }
    local sharded = run { policy = 'ultraep:on=current,domain=node' }
    assert.is_true(count['late late'] > 0 and near.bytes_per_step.late > 0)
    assert.is_true(near.exposed_ms.late < sharded.exposed_ms.late)
    -- of whose experts an eighth is there, as the rank's shard
    assert.are.equal(near.bytes_per_step.late * 7 / 8, sharded.bytes_per_step.late)
    local far = run { policy = 'ultraep:on=current', shard_group = 'resident' }
    assert.is_true(far.exposed_ms.late > near.exposed_ms.late)
    -- whole experts of 3 x 512 x 1024 parameters, fewer than there are slots in 2 steps, 3 layers
    -- and 2 micro-batches
    local experts = 2 * near.bytes_per_step.late / (3 * 512 * 1024 * 2)
    assert.is_true(experts > 0 and experts % 1 == 0 and experts < 2 * 3 * 2 * 16)
  end)

  it('refuses degrees that do not fit', function()
    for _, case in ipairs { { 3, 'resident', 'divisor of 8' }, { 16, 'resident', 'divisor of 8' },
      { 4, 'all', 'for resident experts' }, { 2, 'resident', 'homes of 8 experts' } } do
      local ok, err = pcall(run, { ep = case[1], shard_group = case[2], policy = 'static' })
      assert.is_false(ok)
      assert.matches(case[3], err.message)
    end
  end)
end)

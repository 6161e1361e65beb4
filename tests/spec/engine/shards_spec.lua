-- SPDX-License-Identifier: Apache-2.0

local comm = require 'neap.engine.comm'
local lib = require 'neap.base.lib'
local shards = require 'neap.engine.shards'
local tensor = require 'neap.engine.tensor'

local ffi, C = lib.ffi, lib.C

describe('shards', function()
  local world, group, topology

  setup(function()
    local out = ffi.new 'neap_world *[1]'
    lib.check(C.neap_world_open(1, out))
    world = out[0]
    group = comm.open_local(world, 0)
    out = ffi.new 'neap_topology *[1]'
    lib.check(C.neap_topology_open(1, 2, nil, ffi.new('int32_t[1]', 2), nil, nil, out))
    topology = { ptr = out[0] }
  end)

  teardown(function()
    group:close()
    C.neap_world_close(world)
    C.neap_topology_close(topology.ptr)
  end)

  local function open(options)
    options = options or {}
    options.comm, options.topology, options.sizes = group, topology, options.sizes or { 5, 3 }
    return shards.open(options)
  end

  it('give back what was set', function()
    local store = open { dtype = 'f64' }
    local value = tensor.new('f64', 3):normal(1, 2)
    for _, part in ipairs { 'parameter', 'moment1', 'moment2', 'gradient' } do
      store:set(part, 1, value)
      assert.are.same(value:tolist(), store:get(part, 1, tensor.new('f64', 3)):tolist())
      assert.are.same({ 0, 0, 0, 0, 0 }, store:get(part, 0, tensor.new('f64', 5)):tolist())
    end
    local expected = 0
    for _, v in ipairs(value:tolist()) do expected = expected + v * v end
    assert.is_true(math.abs(store:sum_squares() - expected) < 1e-12)
    store:close()
  end)

  it('tell what is wrong with their arguments', function()
    local store = open()
    local value = tensor.new('f32', 5)
    for text, call in pairs {
      ["unknown option 'size' %(did you mean 'sizes'%?%)"] = function() open { size = 1 } end,
      ['1 sizes for 2 experts'] = function() open { sizes = { 1 } } end,
      ["shard group 'nodes' is unknown %(did you mean 'node'%?%)"] =
        function() open { group = 'nodes' } end,
      ['shard group is %-3'] = function() open { group = -3 } end,
      ["part 'gradeint' is unknown %(did you mean 'gradient'%?%)"] =
        function() store:set('gradeint', 0, value) end,
      ['expert 2; allowed are 0 to 1'] = function() store:set('gradient', 2, value) end,
    } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.are.equal('ARGUMENT', err.code)
      assert.matches(text, err.message)
      assert.matches('shards_spec', err.where)
    end
    store:close()
    assert.has_error(function() store:count() end)
  end)
end)

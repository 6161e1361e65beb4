-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'

describe('lib', function()
  it('hints at close names only', function()
    assert.are.equal('', lib.hint('foo', { 'go' }))
    assert.are.equal(" (did you mean 'window'?)", lib.hint('windwo', { 'alpha', 'window' }))
    assert.are.equal(" (did you mean 'steps'?)", lib.hint('stpes', { 'sizes', 'steps' }))
    assert.are.equal('', lib.hint('zebra', { 'alpha', 'window' }))
  end)

  it('turns a failed status into an error with code, message and place', function()
    local out = lib.ffi.new 'neap_topology *[1]'
    local slots = lib.ffi.new('int32_t[1]', 1)
    local ok, err = pcall(function()
      lib.check(lib.C.neap_topology_open(1, 2, nil, slots, nil, nil, out))
    end)
    assert.is_false(ok)
    assert.are.equal('ARGUMENT', err.code)
    assert.matches('2 experts do not fit into 1 slots', err.message)
    assert.matches('lib_spec.lua:%d+: topology', tostring(err))
  end)

  it('makes later use of a closed handle a clear error', function()
    local out = lib.ffi.new 'neap_topology *[1]'
    lib.check(lib.C.neap_topology_open(1, 1, nil, lib.ffi.new('int32_t[1]', 1), nil, nil, out))
    local Class = {}
    Class.__index = Class
    local object = lib.handle(Class, out[0], lib.C.neap_topology_close)
    lib.close(object)
    local ok, err = pcall(function() return object.ptr end)
    assert.is_false(ok)
    assert.matches('closed object', tostring(err))
  end)
end)

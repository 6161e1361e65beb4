-- SPDX-License-Identifier: Apache-2.0

local comm = require 'neap.engine.comm'
local lib = require 'neap.base.lib'
local model_params = require 'neap.train.model_params'
local model_size = require 'neap.train.model_size'
local topology = require 'neap.engine.topology'
local Transformer = require 'neap.nn.transformer'

local P = { layers = 3, hidden = 32, heads = 4, kv_heads = 2, experts = 4, top_k = 2, batch = 2,
  sequence = 8, ffn = { 16, 32, 48, 16 }, shared_experts = 2, dense_layers = 1, dense_ffn = 80 }

--- Parameters of the model itself, all and those of a token.
local function counted(p)
  local world = lib.ffi.new 'neap_world *[1]'
  lib.check(lib.C.neap_world_open(1, world))
  local group = comm.open_local(world[0], 0)
  lib.C.neap_world_close(world[0])
  local options = model_params.of(p)
  for _, name in ipairs { 'layers', 'hidden', 'heads', 'kv_heads', 'top_k', 'batch', 'sequence',
    'ffn' } do
    options[name] = p[name]
  end
  options.comm, options.session = group, {}
  options.topology = topology.open { ranks = 1, slots = p.experts, experts = p.experts }
  local model = Transformer.new(options)
  local all, used = model:count()
  model:close()
  options.topology:close()
  group:close()
  return all, used
end

describe('the size of a model', function()
  it('is that of the model itself', function()
    local size, all, used = model_size.of(P), counted(P)
    assert.are.equal(all, size.parameters)
    assert.are.equal(used, size.used)
    assert.are.equal(2, size.layers)
    assert.are.equal(2 * 28, size.shared_ffn)
  end)

  it('needs no parameter that older trainings lack', function()
    local old = { shared_experts = false, dense_layers = false, dense_ffn = false }
    for name, value in pairs(P) do
      if old[name] == nil then old[name] = value end
    end
    for name, value in pairs(old) do old[name] = value or nil end
    assert.are.equal(counted(old), model_size.of(old).parameters)
  end)

  it('tells the operations of a step: three products for every one of a forward', function()
    local tokens, forward = 16, 0
    local function product(k, n) forward = forward + 2 * tokens * k * n end
    for layer = 0, 2 do
      product(32, 64) -- queries, keys, values: 8 heads of 8
      product(32, 32)
      forward = forward + 2 * 2 * tokens * 4 * 32 -- scores and sums over half of 8 positions
      if layer == 0 then
        product(32, 160)
        product(80, 32)
      else
        product(32, 4)
        product(32, 112)
        product(56, 32)
        for _ = 1, 2 do -- of experts whose mean is 28
          product(32, 56)
          product(28, 32)
        end
      end
    end
    product(32, 256)
    assert.are.equal(3 * forward, model_size.of(P).flops)
  end)
end)

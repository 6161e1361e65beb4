-- SPDX-License-Identifier: Apache-2.0

local comm = require 'neap.engine.comm'
local launcher = require 'neap.launcher'
local layouts = require 'neap.engine.layout'
local lib = require 'neap.base.lib'
local moe = require 'neap.engine.moe'
local splits = require 'neap.engine.split'
local tensor = require 'neap.engine.tensor'
local topologies = require 'neap.engine.topology'

local ffi, C = lib.ffi, lib.C
local RANKS = launcher.home .. '/tests/spec/ranks/moe.lua'

local function run_threads(ranks, path)
  return launcher.run_ranks(ranks, RANKS, { path })
end

local function run_mpi(ranks, path)
  return os.execute(('OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun '
    .. '--oversubscribe -n %d %s/neap lua %s %s'):format(ranks, launcher.folder, RANKS, path))
end

--- What a step gives on so many ranks.
local function results(ranks, run)
  local path = os.tmpname()
  assert.are.equal(0, run(ranks, path))
  local file = io.open(path)
  local text = file:read '*a'
  file:close()
  os.remove(path)
  return text
end

--- A layer alone on a rank of its own, and its tensors; phases: forward and two of the way back.
local function single(group, topology, seed)
  local tokens, hidden, ffn, experts = 40, 12, 20, 3
  local s = {}
  local function normal(stream, ...) return tensor.new('f32', ...):normal(seed, stream, 0, 1) end
  local layer = moe.open { comm = group, topology = topology, hidden = hidden,
    ffn = { ffn, ffn, ffn }, top_k = 2 }
  local x, dy, router = normal(1, tokens, hidden), normal(2, tokens, hidden),
    normal(3, hidden, experts)
  local weights = normal(4, experts, 3 * hidden * ffn)
  s.gradients, s.drouter = tensor.new('f32', experts, 3 * hidden * ffn),
    tensor.new('f32', hidden, experts)
  s.dx = tensor.new('f32', tokens, hidden)
  local layout, split = layouts.open(topology):set { 0, 1, 2 }, splits.open(topology, 'lite')
  function s.forward()
    layer:route(x, router)
    split:compute(layout, layer:load())
    layer:dispatch(x, layout, split)
    layer:forward(weights, tensor.new('f32', tokens, hidden))
  end
  function s.send() layer:backward_dispatch(dy) end
  function s.back()
    s.drouter:fill(0)
    layer:backward(x, router, weights, s.gradients, s.dx, s.drouter)
  end
  function s.close() layer:close() end
  function s.results() return { s.gradients:tolist(), s.dx:tolist(), s.drouter:tolist() } end
  return s
end

--- A communicator of one rank.
local function alone_in_the_world()
  local world = ffi.new 'neap_world *[1]'
  lib.check(C.neap_world_open(1, world))
  local group = comm.open_local(world[0], 0)
  C.neap_world_close(world[0])
  return group
end

describe('moe', function()
  it('goes back through layers of one thread in any order', function()
    local group = alone_in_the_world()
    local topology = topologies.open { ranks = 1, slots = 3, experts = 3 }
    local layers, wanted = {}, {}
    for i = 1, 3 do layers[i] = single(group, topology, i) end
    for i = 1, 3 do
      layers[i].forward()
      layers[i].send()
      layers[i].back()
      wanted[i] = layers[i].results()
    end
    for _, order in ipairs { { 3, 2, 1 }, { 2, 3, 1 } } do
      for i = 1, 3 do layers[i].forward() end
      for i = 1, 3 do layers[i].send() end
      layers[order[1]].back()
      layers[order[1]].forward() -- one that leaves off after its gradients were sent
      layers[order[1]].send()
      for k = 2, 3 do layers[order[k]].back() end
      for i = 1, 3 do assert.are.same(wanted[i], layers[i].results()) end
    end
    layers[1].forward()
    layers[1].send()
    for i = 1, 3 do layers[i].close() end
    topology:close()
    group:close()
  end)

  it('moves biases towards equal counts, which they alone can bring about', function()
    local group, tokens = alone_in_the_world(), 200
    local topology = topologies.open { ranks = 1, slots = 5, experts = 5 }
    local layer = moe.open { comm = group, topology = topology, hidden = 4, ffn = { 1, 1, 1, 1, 1 },
      top_k = 2, scores = 'sigmoid' }
    local x = tensor.new('f32', tokens, 4):normal(3, 1)
    local router, wanted = tensor.new('f32', 4, 5):normal(3, 2), {}
    for e = 0, 4 do wanted[e] = 0 end
    local function furthest()
      layer:route(x, router)
      local far = 0
      for e = 0, 4 do far = math.max(far, math.abs(tonumber(layer:load()[e]) - 80)) end
      return far
    end
    local before = furthest()
    for _ = 1, 60 do
      furthest()
      for e = 0, 4 do
        local load = tonumber(layer:load()[e])
        wanted[e] = wanted[e] + (load < 80 and 0.005 or load > 80 and -0.005 or 0)
      end
      layer:adapt_bias(0.005)
      for e = 0, 4 do assert.are.equal(wanted[e], layer:bias()[e]) end
    end
    assert.is_true(before > 8 and furthest() <= 4, ('from %d to %d'):format(before, furthest()))
    layer:close()
    topology:close()
    group:close()
  end)

  it('with exact gives the same bits on any number of ranks, over threads and MPI', function()
    local alone = results(1, run_threads)
    assert.is_true(#alone > 10000)
    assert.is_nil(alone:find 'nan')
    for _, ranks in ipairs { 2, 3, 4, 8 } do
      assert.are.equal(alone, results(ranks, run_threads))
    end
    assert.are.equal(alone, results(3, run_mpi))
  end)

  it('is measured by a bench', function()
    local pipe = io.popen(launcher.folder .. '/neap bench moe --json --hidden=8 --ffn=5 '
      .. '--experts=4 --tokens=33 --repeats=1 2>&1')
    local text = pipe:read '*a'
    pipe:close()
    local result = require('neap.base.json').decode(text)
    assert.is_table(result, text)
    result = result.rows[1]
    assert.are.equal(33, result.tokens)
    assert.is_true(result.gflops > 0 and result.blas_gflops > 0 and result.ratio > 0)
  end)

  it('has a yardstick: products by the BLAS', function()
    local a = tensor.of('f64', { { 1, 2, 3 }, { 4, 5, 6 } })
    local turned = tensor.of('f64', { { 1, 4 }, { 2, 5 }, { 3, 6 } })
    local c = tensor.new('f64', 2, 2)
    for _, case in ipairs { { a, 0, turned, 0 }, { a, 0, a, 1 }, { turned, 1, a, 1 } } do
      lib.check(C.neap_blas_product(case[1].ptr, case[2], case[3].ptr, case[4], c.ptr))
      assert.are.same({ { 14, 32 }, { 32, 77 } }, c:tolist())
    end
    assert.are_not.equal(0, C.neap_blas_product(a.ptr, 0, a.ptr, 0, c.ptr))
    assert.matches('b is f64 %(2, 3%); expected f64 %(3, 2%)',
      ffi.string(C.neap_error_message()))
  end)

  it('tells what is wrong with its options', function()
    local topology = ffi.new 'neap_topology *[1]'
    lib.check(C.neap_topology_open(1, 2, nil, ffi.new('int32_t[1]', 2), nil, nil, topology))
    local function open(options)
      options.topology, options.comm = { ptr = topology[0] }, {}
      options.hidden, options.top_k = 4, 1
      return function() moe.open(options) end
    end
    for text, call in pairs {
      ["unknown option 'topk' %(did you mean 'top_k'%?%)"] = open { topk = 1 },
      ['ffn has 1 sizes; there are 2 experts'] = open { ffn = { 4 } },
      ["dtype is 'f8'; it must be one of bf16, f32, f64"] = open {
        ffn = { 4, 4 }, dtype = 'f8' },
    } do
      local ok, err = pcall(call)
      assert.is_false(ok)
      assert.are.equal('ARGUMENT', err.code)
      assert.matches(text, err.message)
      assert.matches('moe_spec', err.where)
    end
    C.neap_topology_close(topology[0])
  end)
end)

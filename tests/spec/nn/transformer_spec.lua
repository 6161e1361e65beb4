-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

local RANKS = lib.home .. '/tests/spec/ranks/transformer.lua'

local function threads(ranks, arguments)
  return launcher.run_ranks(ranks, RANKS, arguments)
end

local function mpi(ranks, arguments)
  return os.execute(('OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun '
    .. '--oversubscribe -n %d %s/neap lua %s %s'):format(ranks, launcher.folder, RANKS,
    table.concat(arguments, ' ')))
end

--- What a training on so many ranks writes.
local function train(start, ranks, ...)
  local path = os.tmpname()
  assert.are.equal(0, start(ranks, { path, ... }))
  local file = assert(io.open(path))
  local text = file:read '*a'
  file:close()
  os.remove(path)
  return text
end

local function run(ranks, ...)
  return train(threads, ranks, ...)
end

--- Of one loss per step, the first, which is that of a forward with equal parameters.
local function first_loss(text)
  return text:match '^%S+'
end

local function losses(text)
  local list = {}
  for line in text:gmatch '[^\n]+' do
    local loss = line:match '^(%S+) %S+$'
    list[#list + 1] = tonumber(loss)
  end
  return list
end

describe('transformer', function()
  for _, schedule in ipairs { 'laer', 'none', 'neap' } do
    it('has the gradients that finite differences give, schedule ' .. schedule, function()
      run(1, 'gradients=1', 'schedule=' .. schedule)
    end)
  end

  it('has them with exact sums, and with sigmoids and biases', function()
    run(1, 'gradients=1', 'exact=1')
    run(1, 'gradients=1', 'scores=sigmoid')
  end)

  it('has them with shared experts and a first layer without experts', function()
    run(1, 'gradients=1', 'exact=1', 'shared_experts=2', 'dense_layers=1')
    run(1, 'gradients=1', 'shared_experts=1', 'dense_layers=1', 'dense_ffn=5', 'scores=sigmoid',
      'schedule=neap:recompute=true')
  end)

  it('trains those to the same bits on any ranks, layouts and schedules', function()
    local model = { 'exact=1', 'shared_experts=1', 'dense_layers=1', 'scores=sigmoid',
      'bias_rate=0.01' }
    for _, dtype in ipairs { 'f32', 'bf16' } do
      model[6], model[7] = 'dtype=' .. dtype, 'router_f32=1'
      local alone = run(1, unpack(model))
      assert.is_true(alone == run(2, 'layouts=2', 'schedule=neap:recompute=true', unpack(model)))
      assert.is_true(alone == run(3, 'layouts=3', 'homes=3', unpack(model)))
      assert.is_true(alone == train(mpi, 2, 'schedule=none', unpack(model)))
    end
  end)

  it('moves biases by the counts of all ranks, to the same bits everywhere', function()
    local recipe = { 'exact=1', 'scores=sigmoid', 'bias_rate=0.01' }
    local alone = run(1, unpack(recipe))
    local moved = 0
    for bias in alone:gmatch 'bias (%S+)' do
      local steps = tonumber(bias) / 0.01
      moved = moved + math.abs(steps)
      assert.is_true(math.abs(steps) < 4.5 and math.abs(steps - math.floor(steps + 0.5)) < 1e-9)
    end
    assert.is_true(moved > 0)
    for _, ranks in ipairs { 2, 3 } do
      assert.is_true(alone == run(ranks, 'layouts=' .. ranks, unpack(recipe)))
    end
    assert.is_true(alone == train(mpi, 2, unpack(recipe)))
    assert.is_true(alone ~= run(1, 'exact=1', 'scores=sigmoid'))
  end)

  it('has a router in f32 beside parameters in bf16', function()
    local recipe = { 'exact=1', 'dtype=bf16', 'router_f32=1' }
    local alone = run(1, unpack(recipe))
    for _, ranks in ipairs { 2, 3 } do assert.is_true(alone == run(ranks, unpack(recipe))) end
    local wide, narrow = losses(run(1, 'exact=1')), losses(alone)
    for i, loss in ipairs(wide) do assert.is_true(math.abs(loss - narrow[i]) < 1e-2 * loss) end
    assert.is_true(alone ~= run(1, 'exact=1', 'dtype=bf16'))
  end)

  it('trains to the same bits on any ranks, layouts, splits and schedules when exact', function()
    local alone = run(1, 'exact=1')
    assert.are.equal(4, #losses(alone))
    for _, ranks in ipairs { 2, 3, 4, 8 } do
      assert.are.equal(alone, run(ranks, 'exact=1'))
    end
    assert.are.equal(alone, run(4, 'exact=1', 'schedule=none', 'layouts=7'))
    assert.are.equal(alone, run(4, 'exact=1', 'rule=lite', 'layouts=8', 'slots=2'))
    assert.are.equal(alone, run(6, 'exact=1', 'rule=even', 'layouts=9', 'slots=1'))
  end)

  it('does so where experts are resident', function()
    for _, dtype in ipairs { 'f32', 'bf16' } do
      local alone = run(1, 'exact=1', 'dtype=' .. dtype)
      for ranks, homes in pairs { [1] = 1, [2] = 1, [3] = 3, [4] = 2, [6] = 3 } do
        assert.are.equal(alone, run(ranks, 'exact=1', 'dtype=' .. dtype, 'homes=' .. homes,
          'layouts=' .. ranks, 'schedule=' .. (ranks % 2 == 0 and 'neap:recompute=true' or 'laer')))
      end
      assert.are.equal(alone, train(mpi, 4, 'exact=1', 'dtype=' .. dtype, 'homes=2', 'slots=4'))
    end
  end)

  it('does so where experts travel in FP8', function()
    for _, dtype in ipairs { 'f32', 'bf16' } do
      local alone = run(1, 'exact=1', 'unshard=fp8', 'dtype=' .. dtype)
      assert.are_not.equal(alone, run(1, 'exact=1', 'dtype=' .. dtype))
      for ranks, group in pairs { [2] = 'all', [3] = '1', [4] = '2', [6] = '4' } do
        assert.are.equal(alone, run(ranks, 'exact=1', 'unshard=fp8', 'dtype=' .. dtype,
          'layouts=' .. ranks, 'group=' .. group,
          'schedule=' .. (ranks % 2 == 0 and 'neap:recompute=true' or 'laer:chunks=3')))
      end
      assert.are.equal(alone, train(mpi, 4, 'exact=1', 'unshard=fp8', 'dtype=' .. dtype))
    end
  end)

  it('does so where tokens travel in FP8, alone or beside experts', function()
    for dtype, unshard in pairs { f32 = 'dtype', bf16 = 'fp8' } do
      local recipe = { 'exact=1', 'dispatch=fp8', 'unshard=' .. unshard, 'dtype=' .. dtype }
      local alone = run(1, unpack(recipe))
      assert.are_not.equal(alone, run(1, 'exact=1', 'unshard=' .. unshard, 'dtype=' .. dtype))
      for ranks, schedule in pairs { [2] = 'neap:recompute=true', [3] = 'laer:chunks=3',
        [6] = 'none' } do
        assert.are.equal(alone, run(ranks, 'layouts=' .. ranks, 'schedule=' .. schedule,
          'group=' .. math.ceil(ranks / 2), unpack(recipe)))
      end
      assert.are.equal(alone, train(mpi, 4, 'slots=2', unpack(recipe)))
    end
    local recipe = { 'exact=1', 'dispatch=fp8', 'shared_experts=1', 'dense_layers=1',
      'scores=sigmoid', 'dtype=bf16', 'router_f32=1' }
    assert.are.equal(run(1, unpack(recipe)), run(4, 'homes=2', 'layouts=5', unpack(recipe)))
  end)

  it('does so under mpirun too', function()
    assert.are.equal(run(3, 'exact=1'), train(mpi, 3, 'exact=1'))
    assert.are.equal(run(2), train(mpi, 2))
  end)

  it('has the same first loss, to the bit, on any ranks, layouts, splits and schedules', function()
    for _, dtype in ipairs { 'f32', 'bf16' } do
      local alone = first_loss(run(1, 'dtype=' .. dtype))
      for i, ranks in ipairs { 2, 3, 4, 8 } do
        assert.are.equal(alone, first_loss(run(ranks, 'dtype=' .. dtype, 'layouts=' .. i,
          'rule=' .. ({ 'lite', 'even', 'minimax', 'local' })[i], 'slots=' .. 1 + i % 3,
          'schedule=' .. ({ 'none', 'neap', 'laer:chunks=3', 'laer' })[i])))
      end
      assert.are.equal(alone, first_loss(train(mpi, 3, 'dtype=' .. dtype)))
    end
  end)

  it('trains in bf16 as in f32, within its rounding', function()
    local alone, narrow = run(1), run(3, 'dtype=bf16')
    for i, loss in ipairs(losses(alone)) do
      assert.is_true(math.abs(loss - losses(narrow)[i]) < 1e-2 * loss)
    end
    assert.are_not.equal(alone, narrow)
  end)

  it('trains in bf16 to the same bits on any ranks, layouts and splits when exact', function()
    local alone = run(1, 'exact=1', 'dtype=bf16')
    for _, ranks in ipairs { 2, 3, 8 } do
      assert.are.equal(alone, run(ranks, 'exact=1', 'dtype=bf16', 'layouts=' .. ranks,
        'schedule=neap'))
    end
  end)

  it('trains to nearly the same losses otherwise, and repeats itself', function()
    local alone = run(1)
    local other = run(4, 'layouts=3')
    for i, loss in ipairs(losses(alone)) do
      assert.is_true(math.abs(loss - losses(other)[i]) < 1e-5 * loss)
    end
    assert.are.equal(other, run(4, 'layouts=3'))
    local resident = run(4, 'layouts=3', 'homes=2')
    for i, loss in ipairs(losses(alone)) do
      assert.is_true(math.abs(loss - losses(resident)[i]) < 1e-5 * loss)
    end
    assert.are.equal(resident, run(4, 'layouts=3', 'homes=2', 'schedule=none:chunks=2'))
    for _, schedule in ipairs { 'none', 'neap', 'laer:unshard_ahead=2,unshard_at=attention',
      'none:chunks=3,keep=3,unshard_parts=2', 'laer:unshard_parts=5',
      'laer:hold_reduce=false,gradients=1,chunks=2', 'eager:hold_combine=true,chunks=2',
      'neap:recompute=true', 'laer:recompute=true,chunks=2,unshard_parts=2' } do
      assert.are.equal(other, run(4, 'layouts=3', 'schedule=' .. schedule))
    end
  end)
end)

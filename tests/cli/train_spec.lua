-- SPDX-License-Identifier: Apache-2.0

--- The main job, small: what a training run promises whatever the policy, the transport and N.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SLOW = (os.getenv 'NEAP_SANITIZED' or '') ~= '' -- ten times slower
local STEPS = SLOW and '--steps=6' or '--steps=20'

local SMALL = 'run experiments/quickstart.lua --layers=2 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=48 --experts=6 --slots=3 --batch=8 --sequence=32 --warmup=2 --text=english,go@3 '
  .. "--trace='' "

local function rows(arguments, processes, expected)
  local run = processes and function(text) return program.mpirun(processes, text) end or program.run
  local status, out, err = run(SMALL .. '--json ' .. arguments)
  assert.are.equal(expected or 0, status, err)
  return json.decode(out).rows, err
end

local function digests(list)
  local found = {}
  for i, row in ipairs(list) do found[i] = row.digest end
  return found
end

describe('training', function()
  it('is the same to the bit when run twice, on threads and under mpirun', function()
    local arguments = '--steps=6 --in-process '
    local first = digests(rows('-n 4 ' .. arguments))
    assert.are.same(first, digests(rows('-n 4 ' .. arguments)))
    assert.are.same(first, digests(rows('--node-size=4 ' .. arguments, 4)))
  end)

  it('depends on no policy, layout, split, shard group, number of ranks', function()
    local seen = {}
    local ranks = { '-n 1 --slots=6', '-n 4 --shard-group=resident --ep=2', '-n 2',
      '-n 4 --shard-group=node --node-size=2', '-n 4 --node-size=3',
      '-n 8 --shard-group=3 --schedule=none', '-n 6 --shard-group=resident' }
    for i = 1, SLOW and 2 or #ranks do
      local arguments = ranks[i]
      for _, row in ipairs(rows(arguments .. ' --steps=6 --policies=static,laer,minimax,'
        .. 'experiments/policies/hot.lua,laer+even')) do
        seen[row.digest] = arguments .. ' ' .. row.policy
      end
    end
    assert.are.equal(1, #require('neap.base.lib').sorted_keys(seen), json.encode(seen))
  end)

  it('nor with experts of unequal size, and balanced as they are today', function()
    local seen = {}
    for _, arguments in ipairs { '-n 1 --slots=6', '-n 3', '-n 8 --slots=2' } do
      for _, row in ipairs(rows(arguments .. ' --steps=4 --ffn=48,16,33,7,20,64 '
        .. '--aux-loss=0.01 --policies=static,minimax --scores=sigmoid --bias-rate=0.01 '
        .. '--shared-experts=1 --dense-layers=1 --dense-ffn=40')) do
        seen[row.digest] = arguments .. ' ' .. row.policy
      end
    end
    assert.are.equal(1, #require('neap.base.lib').sorted_keys(seen), json.encode(seen))
  end)

  it('gives every expert as many tokens where that is forced, and tells the share', function()
    local seen = {}
    for _, arguments in ipairs { '-n 2', '-n 4 --balanced' } do
      local list = rows(arguments .. ' --steps=2 --routing=balanced --policies=static,minimax')
      for _, row in ipairs(list) do
        seen[row.digest] = true
        assert.is_true(row.imbalance.max < 1.02, row.policy .. ' ' .. row.imbalance.max)
        assert.are.equal(arguments == '-n 2', row.share_of_balanced == nil)
        assert.is_true((row.share_of_balanced or 1) > 0)
      end
    end
    assert.are.equal(1, #require('neap.base.lib').sorted_keys(seen), json.encode(seen))
    local status, _, err = program.run 'run tests/cli/recipes/probe.lua --balanced --no-store'
    assert.are.equal(2, status)
    assert.matches("recipe probe has no parameter 'routing'", err)
  end)

  it('learns the same under every policy, whatever the seed', function()
    for seed = 1, SLOW and 1 or 3 do
      local list = rows(('-n 4 --steps=%d --text=english --policies=static,minimax --seed=%d')
        :format(SLOW and 25 or 100, seed))
      assert.are.same(list[1].losses, list[2].losses)
      assert.is_true(list[1].loss < (SLOW and 0.9 or 0.6) * list[1].losses[1])
    end
  end)

  it('with --no-exact is the same but for rounding', function()
    local list = rows('-n 4 --no-exact --policies=static,laer,minimax ' .. STEPS)
    for _, row in ipairs(list) do
      for step, loss in ipairs(row.losses) do
        local first = list[1].losses[step]
        assert.is_true(math.abs(loss - first) <= 1e-4 * first, row.policy .. ' at step ' .. step)
      end
    end
  end)

  it('follows f32 in bf16 within its rounding', function()
    local arguments = STEPS .. ' -n 4 --text=english --policies=static,minimax --dtype='
    local wide, narrow = rows(arguments .. 'f32'), rows(arguments .. 'bf16')
    for policy, row in ipairs(narrow) do
      assert.are.equal('bf16', row.dtype)
      assert.are.equal(narrow[1].losses[1], row.losses[1])
      for step, loss in ipairs(row.losses) do
        local expected = wide[policy].losses[step]
        assert.is_true(math.abs(loss - expected) <= 5e-3 * expected, 'step ' .. step)
      end
    end
  end)

  it('goes on, with the last valid layout, whatever a policy does', function()
    local places = { fails = 'fails.lua:%d+', leaves = 'leaves.lua', loops = 'loops.lua' }
    for name, place in pairs(places) do
      local steps = name == 'loops' and (SLOW and 60 or 400) or 6
      local list, err = rows(('-n 4 --steps=%d --deadline=1 --policies=tests/policies/%s.lua')
        :format(steps, name), nil, 3) -- none of them was ever in force
      assert.matches(place .. '.*step %d+, layer %d', err)
      assert.is_true(list[1].faults >= 1, name)
      assert.are.equal(steps, #list[1].losses)
    end
  end)

  it('stops under --strict with exit code 3', function()
    local status, _, err = program.run(SMALL
      .. '-n 4 --steps=6 --strict --policies=tests/policies/fails.lua')
    assert.are.equal(3, status, err)
    assert.matches('fails.lua', err)
  end)

  it('writes a trace of what it routed', function()
    local path = os.tmpname()
    local status, _, err = program.run((SMALL:gsub("%-%-trace='' ", ''))
      .. ('-n 4 --steps=5 --policies=static --trace=%s'):format(path))
    assert.are.equal(0, status, err)
    assert.matches('neap replay %-%-trace ' .. path:gsub('%p', '%%%0'), err)
    local trace = require('neap.engine.trace').open(path)
    assert.are.same({ 5, 2, 4, 6 }, { trace.steps, trace.layers, trace.ranks, trace.experts })
    local load, sum = trace:load(4, 1), 0
    for i = 0, 23 do sum = sum + tonumber(load[i]) end
    assert.are.equal(8 * 32 * 2, sum)
    os.remove(path)
  end)

  it('plans and splits as a replay of its trace does, to the bit', function()
    local path = os.tmpname()
    for _, policy in ipairs { 'minimax', 'neap', 'static' } do
      local status, out, err = program.run((SMALL:gsub("%-%-trace='' ", ''))
        .. ('-n 4 --node-size=2 --steps=8 --in-process --json --policies=%s --trace=%s'):format(
          policy, path))
      assert.are.equal(0, status, err)
      local trace = require('neap.engine.trace').open(path)
      local replayed = require('neap.replay').score { trace = trace, policy = policy, warm_up = 0,
        seed = 1, in_process = true, topology = require('neap.engine.topology').open { ranks = 4,
          node_size = 2, slots = 3, experts = 6 } }
      local trained = json.decode(out).rows[1]
      assert.are.same(json.decode(json.encode(replayed.imbalance)), trained.imbalance)
      assert.are.equal(json.decode(json.encode(replayed.inter_node_share)),
        trained.inter_node_share)
    end
    os.remove(path)
  end)

  it('names the package that a missing text comes from', function()
    local status, _, err = program.shell(('NEAP_TEXT_ROOT=/nowhere %s %s'):format(program.path,
      SMALL .. '-n 2 --steps=1'))
    assert.are.equal(1, status)
    assert.matches('apt%-get install dict%-gcide', err)
  end)
end)

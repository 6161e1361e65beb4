-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local policy = require 'neap.policy'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local RANKS, EXPERTS, LAYERS = 8, 8, 2
local FOLDER = 'tests/policies/'

local function open(name, options)
  local given = {
    topology = topology.open { ranks = RANKS, node_size = 4, slots = 2, experts = EXPERTS },
    layers = LAYERS, policy = name, seed = 3, wait = true, deadline = 0.3,
  }
  for key, value in pairs(options or {}) do given[key] = value end
  return session.open(given)
end

local function load_of(step, layer)
  local load = lib.ffi.new('int64_t[?]', RANKS * EXPERTS)
  for i = 0, RANKS * EXPERTS - 1 do
    load[i] = 100 * lib.C.neap_random_uniform(3, step * LAYERS + layer, i) * (i % EXPERTS + 1)
  end
  return load
end

--- Runs steps and returns a fingerprint of all layouts and splits, and the report.
local function run(s, steps)
  local trail = {}
  for step = 0, steps - 1 do
    s:advance(step)
    for layer = 0, LAYERS - 1 do
      local load = load_of(step, layer)
      s:plan_now(step, layer, load)
      local split = s:split(step, layer, load)
      trail[#trail + 1] = ('%s %.9f'):format(s:layout(layer):hash(), split:balance().imbalance)
      s:record(step, layer, load)
    end
  end
  local report = s:report()
  s:close()
  return table.concat(trail, '\n'), report
end

local function file(name)
  return FOLDER .. name .. '.lua'
end

describe('session', function()
  it('gives the same layouts and splits through the worker and in the process', function()
    for _, name in ipairs(policy.names()) do
      local outside, report = run(open(name), 6)
      assert.are.equal(0, report.faults, table.concat(report.messages, '\n'))
      assert.are.equal(outside, (run(open(name), 6)), name .. ' twice')
      assert.are.equal(outside, (run(open(name, { in_process = true }), 6)), name .. ' in process')
    end
  end)

  it('starts with the static layout and changes it by plans', function()
    local s = open 'laer'
    local static = s:layout(0):hash()
    assert.are.equal(static, s:layout(1):hash())
    s:advance(0)
    assert.are.equal(static, s:layout(0):hash())
    s:record(0, 0, load_of(0, 0))
    s:advance(1)
    assert.are_not.equal(static, s:layout(0):hash())
    assert.are.equal(static, s:layout(1):hash())
    s:close()
  end)

  it('takes the split rule of the command line over that of the policy', function()
    local s = open 'laer+even:window=2'
    assert.are.equal('even', s.rule)
    s:close()
    s = open 'laer'
    assert.are.equal('lite', s.rule)
    s:close()
  end)

  it('calls when to ask whether to plan', function()
    local _, report = run(open(file 'when'), 7)
    assert.are.equal(0, report.faults)
    assert.is_true(report.plan_ms.mean > 0)
  end)

  it('uses a late plan later, and never waits for it', function()
    local s = open(file 'slow', { wait = false })
    local static = s:layout(0):hash()
    s:record(0, 0, load_of(0, 0))
    s:advance(1)
    assert.are.equal(static, s:layout(0):hash())
    require('neap.launcher').sleep(0.15)
    s:advance(2)
    assert.are_not.equal(static, s:layout(0):hash())
    assert.are.equal(1, s:report().late)
    s:close()
  end)

  it('drops loads for which there is no room', function()
    local s = open(file 'loops', { wait = false })
    for step = 0, 20 do s:record(step, 0, load_of(step, 0)) end
    assert.is_true(s:report().late > 0)
    s:close()
  end)

  it('plans on current counts for a policy that wants it', function()
    local s = open(file 'current')
    local before = s:layout(1):hash()
    s:plan_now(0, 1, load_of(0, 1))
    assert.are_not.equal(before, s:layout(1):hash())
    s:close()
  end)

  it('plans on history and again on the counts for a policy that wants both', function()
    for _, in_process in ipairs { true, false } do
      local s = open(file 'both', { in_process = in_process })
      local layout = s:layout(1)
      local function slot(rank) return layout:array()[rank * layout.topology:slots_of(0)] end
      local before = { slot(0), slot(1), slot(2), slot(3) }
      s:plan_now(0, 1, load_of(0, 1))
      assert.are.same({ before[1], before[2], before[4], before[3] },
        { slot(0), slot(1), slot(2), slot(3) })
      s:record(0, 1, load_of(0, 1))
      s:advance(1, true)
      s:plan_now(1, 1, load_of(1, 1))
      assert.are.same({ before[2], before[1], before[3], before[4] },
        { slot(0), slot(1), slot(2), slot(3) })
      assert.are.equal(0, s:report().faults)
      s:close()
    end
  end)

  it('plans any policy on the counts if it is told to; experts that ranks keep do not move',
  function()
    for _, name in ipairs { 'laer:on=current', 'ultraep:on=current', 'neap:on=current,window=3' } do
      for _, in_process in ipairs { true, false } do
        local s = open(name, { in_process = in_process })
        local topology_of, late, n = s.topology, 0, 0
        for step = 0, 4 do
          s:advance(step)
          for layer = 0, LAYERS - 1 do
            local base, load = s:layout(layer):experts(), load_of(step, layer)
            s:plan_now(step, layer, load)
            local arrived = 0
            for rank, experts in ipairs(s:layout(layer):experts()) do
              local had, has = {}, {}
              for _, e in ipairs(base[rank]) do had[e] = true end
              for _, e in ipairs(experts) do has[e] = true end
              for slot, e in ipairs(experts) do
                assert.is_true(e == base[rank][slot] or not had[e] or not has[base[rank][slot]],
                  'an expert has moved within its rank')
                if not had[e] then
                  arrived, had[e] = arrived + 1, true
                end
              end
            end
            local changed = s:late_base(layer)
            assert.are.equal(changed ~= nil, arrived > 0)
            if changed then assert.are.same(base, changed:experts()) end
            late, n = late + arrived, n + 1
            s:split(step, layer, load)
            s:record(step, layer, load)
          end
        end
        local report = s:report()
        assert.are.equal('current', report.plans_on)
        assert.is_true(late > 0)
        assert.is_near(late / n, report.late_experts, 1e-9)
        assert.are.equal(0, report.faults)
        assert.are.equal(topology_of, s.topology)
        s:close()
      end
    end
  end)

  it('knows loads before only where they can be known', function()
    local current, known = {}, {}
    for i, on in ipairs { 'current', 'known' } do
      local s = open('laer:on=' .. on, { known = true })
      s:advance(0)
      s:plan_now(0, 0, load_of(0, 0))
      local of = i == 1 and current or known
      of.hash, of.late, of.report = s:layout(0):hash(), s:late_base(0), s:report()
      s:close()
    end
    assert.are.equal(current.hash, known.hash)
    assert.is_not_nil(current.late)
    assert.is_nil(known.late)
    assert.is_nil(known.report.late_experts)
    local ok, err = pcall(open, 'laer:on=known')
    assert.is_false(ok)
    assert.matches('training does not know loads', err.message)
    ok, err = pcall(open, 'laer:on=curent')
    assert.is_false(ok)
    assert.matches("did you mean 'current'", err.message)
  end)

  it('never changes a layer between its forward and its backward', function()
    for _, name in ipairs { 'late', file 'both' } do
      for _, in_process in ipairs { true, false } do
        local s, changes = open(name, { in_process = in_process }), 0
        for step = 0, 5 do
          s:advance(step)
          local in_forward = {}
          for layer = 0, LAYERS - 1 do
            local load = load_of(step, layer)
            s:plan_now(step, layer, load)
            in_forward[layer] = s:layout(layer):hash()
            s:split(step, layer, load)
            s:record(step, layer, load)
          end
          for layer = LAYERS - 1, 0, -1 do
            assert.are.equal(in_forward[layer], s:layout(layer):hash(), name)
          end
          s:advance(step + 1, true)
          for layer = 0, LAYERS - 1 do
            changes = changes + (s:layout(layer):hash() ~= in_forward[layer] and 1 or 0)
          end
        end
        assert.is_true(changes > 0)
        assert.are.equal(0, s:report().faults)
        s:close()
      end
    end
  end)

  it('refuses unknown options with a hint', function()
    local ok, err = pcall(open, 'laer', { deadlin = 1 })
    assert.is_false(ok)
    assert.matches("did you mean 'deadline'", tostring(err))
  end)
end)

describe('ranks of a session', function()
  local RANKS_FILE = launcher.home .. '/tests/spec/ranks/session.lua'

  local function read(path)
    local input = assert(io.open(path))
    local text = input:read '*a'
    input:close()
    os.remove(path)
    return text
  end

  local function mpirun(arguments)
    return os.execute(('OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun '
      .. '--oversubscribe -n 4 %s/neap lua %s %s'):format(launcher.folder, RANKS_FILE, arguments))
  end

  it('see the same, on threads and under mpirun, whatever the policy does', function()
    local path = os.tmpname()
    for _, name in ipairs {
      'laer', file 'current', file 'splits', file 'splits' .. ':kind=leaves', file 'crashes',
    } do
      assert.are.equal(0, launcher.run_ranks(4, RANKS_FILE, { name, path }))
      assert.are.equal(0, mpirun(name .. ' ' .. path .. '.mpi'))
      local first = read(path .. '.0')
      assert.is_true(#first > 300)
      assert.are.equal(first, read(path .. '.mpi.0'))
      for rank = 1, 3 do
        assert.are.equal(first, read(path .. '.' .. rank))
        assert.are.equal(first, read(path .. '.mpi.' .. rank))
      end
    end
    os.remove(path)
  end)

  it('notice when their layouts differ', function()
    local path = os.tmpname()
    assert.are.equal(0, launcher.run_ranks(4, RANKS_FILE, { 'laer', path, 'tamper' }))
    for rank = 0, 3 do
      assert.matches('COMM session: ranks disagree about the layouts of step 1',
        read(path .. '.' .. rank))
    end
    os.remove(path)
  end)
end)

describe('a bad policy', function()
  it('was never in force if its first answer, known at the end, is a fault', function()
    local _, report = run(open(file 'fails', { wait = false }), 1)
    assert.is_true(report.faults >= 1)
    assert.are.equal(0, report.in_force)
    local _, good = run(open('hot', { wait = false }), 1)
    assert.is_nil(good.in_force)
  end)

  --- Runs it, expects faults with a message, and that the static layout stays in force.
  local function faulty(name, pattern, options, steps)
    local static = open('static'):layout(0):hash()
    local s = open(name, options)
    local trail, report = run(s, steps or 3)
    assert.is_true(report.faults >= 1)
    assert.matches(pattern, report.messages[1])
    for hash in trail:gmatch '(%x+) [%d.]+' do assert.are.equal(static, hash) end
    return report
  end

  it('that loops is killed and named', function()
    local report = faulty(file 'loops',
      'loops.lua:3: plan at step 1, layer 0 ran for more than 0.3 s; a new worker was')
    assert.are.equal(3, report.faults)
    faulty(file 'match', 'match.lua:3: plan at step 1, layer 0 ran for', { deadline = 0.1 })
  end)

  it('that exits or crashes is named, and a new worker started', function()
    faulty(file 'leaves', 'leaves.lua:2: plan at step 1, layer 0 ended .* %(exit status 0%)')
    faulty(file 'crashes', 'crashes.lua:4: plan at step 1, layer 0 ended the worker %(')
    faulty(file 'children', 'children.lua:3: plan .* %(exit status 7%)')
    assert.are_not.equal(0, os.execute 'pgrep -f "sleep 98765[4]" >/dev/null')
  end)

  it('that damages the shared memory harms nobody else', function()
    local report = faulty(file 'scribbles', 'scribbles.lua')
    assert.is_true(report.faults >= 1)
  end)

  it('that fails is named with its line', function()
    for _, in_process in ipairs { false, true } do
      local report = faulty(file 'fails',
        'policy tests/policies/fails.lua:3: plan at step 1, layer 0: attempt to index field',
        { in_process = in_process })
      assert.are.equal(6, report.faults)
      faulty(file 'recurses', 'recurses.lua.*plan at step 1, layer 0: .*stack overflow',
        { in_process = in_process })
    end
  end)

  it('that wants all memory is refused it', function()
    faulty(file 'eats', 'eats.lua.*plan at step 1, layer 0', { deadline = 2 })
  end)

  it('that answers wrongly is told rank, slot and expert', function()
    local expected = {
      missing = 'expert 1 is in no slot', short = '15 slots in the list; expected are 16',
      high = 'slot 0 of rank 1 holds expert 99; allowed are 0 to 7',
      low = 'slot 0 of rank 1 holds expert %-1', nan = 'slot 0 of rank 1 holds %-?nan',
      text = 'slot 0 of rank 1 holds three', half = 'slot 0 of rank 1 holds 1.5',
      huge = 'slot 0 of rank 1 holds', number = 'the answer is a number; expected a layout',
      none = 'the answer is nil', empty = 'slot 0 of rank 0 is empty',
      place = 'expert is 77; allowed are 0 to 7',
      full = 'expert 3 does not fit on rank 0',
    }
    for _, kind in ipairs(lib.sorted_keys(expected)) do
      for _, in_process in ipairs { false, true } do
        local report = faulty(file 'answers' .. ':kind=' .. kind,
          'policy tests/policies/answers.lua:%d+: plan at step 1, layer 0: .*' .. expected[kind],
          { in_process = in_process })
        assert.are.equal(6, report.faults)
      end
    end
  end)

  it('stops the run under strict, with code POLICY', function()
    for _, name in ipairs { 'fails', 'loops', 'leaves' } do
      local ok, err = pcall(run, open(file(name), { strict = true }), 3)
      assert.is_false(ok)
      assert.are.equal('POLICY', err.code)
      assert.matches(name .. '.lua', tostring(err))
    end
  end)

  it('is not called any more when it ends every worker', function()
    local report = faulty(file 'leaves', 'leaves.lua', nil, 14)
    assert.are.equal(10, report.faults)
    assert.matches('not called any more', report.messages[10])
  end)

  it('that cannot be loaded is an error at once', function()
    local ok, err = pcall(open, file 'loading', { strict = true })
    assert.is_false(ok)
    assert.are.equal('POLICY', err.code)
    ok, err = pcall(open, file 'loading')
    assert.is_false(ok)
    assert.are.equal('FAILED', err.code)
    assert.matches('loading.lua: loading it ended the worker %(exit status 9%)', tostring(err))
  end)
end)

describe('the process of a policy', function()
  --- State letter of a process: R, S, Z (dead, not yet reaped by whoever inherited it), or nil.
  local function state(pid)
    local stat = io.open('/proc/' .. pid .. '/stat')
    local text = stat and stat:read '*a'
    if stat then stat:close() end
    return text and text:match '^%d+ %b() (%a)'
  end

  local function wait_for(condition)
    for _ = 1, 500 do
      local result = condition()
      if result then return result end
      launcher.sleep(0.01)
    end
  end

  it('ends with the rank, even when that is killed', function()
    local path = os.tmpname()
    os.execute(('%s/neap lua tests/spec/ranks/session_hangs.lua %s 2>/dev/null &'):format(
      launcher.folder,      path))
    local ids = wait_for(function()
      local input = assert(io.open(path))
      local rank, worker = input:read '*a':match '(%d+) (%d+)\n'
      input:close()
      return rank and { rank, worker }
    end)
    local worker = ids[2]
    assert.are.equal('R', state(worker))
    os.execute('kill -9 ' .. ids[1])
    assert.is_true(wait_for(function()
      local now = state(worker)
      return not now or now == 'Z'
    end))
    os.remove(path)
  end)

  it('writes nothing to stdout', function()
    local path = os.tmpname()
    local csv = assert(io.open(path .. '.csv', 'w'))
    csv:write 'step,layer,rank,e0,e1\n'
    for step = 0, 6 do csv:write(step, ',0,0,3,4\n', step, ',0,1,5,6\n') end
    csv:close()
    local pipe = io.popen(('%s/neap replay --trace %s.csv --slots 2 --json --policy %s 2>/dev/null')
      :format(launcher.folder, path, file 'prints'))
    local text = pipe:read '*a'
    pipe:close()
    os.remove(path)
    os.remove(path .. '.csv')
    assert.are.equal(0, require('neap.base.json').decode(text).rows[1].faults)
  end)
end)

describe('a split hook', function()
  local function split_run(kind, options, steps)
    return run(open(file 'splits' .. ':kind=' .. kind, options), steps or 4)
  end

  it('decides, in the worker and in the process', function()
    for _, kind in ipairs { 'good', 'rule', 'filled' } do
      local outside, report = split_run(kind)
      assert.are.equal(0, report.faults, report.messages[1])
      assert.are.equal(outside, (split_run(kind, { in_process = true })))
    end
    assert.are.equal((split_run 'rule'), (run(open 'static+even', 4)))
    assert.are.equal((split_run 'filled'), (run(open 'static', 4)))
  end)

  it('that fails is replaced by the exact split, after three faults for good', function()
    local expected = {
      more = 'splits.lua:27: split at step 0, layer 0: .*the load is',
      wrong = 'the answer is a number', unknown = 'minimx',
      loops = 'splits.lua:27: split at step 0, layer 0 ran for more than 0.3 s',
      leaves = 'splits.lua:27: split at step 0, layer 0 ended the worker',
    }
    for _, kind in ipairs(lib.sorted_keys(expected)) do
      local trail, report = split_run(kind)
      assert.are.equal(3, report.faults, kind)
      assert.matches(expected[kind], report.messages[1])
      assert.matches("'minimax' is used for the rest of the run", report.messages[4])
      assert.are.equal((run(open 'static+minimax', 4)), trail)
    end
  end)

  it('that fails now and then is asked again', function()
    local _, report = split_run('sometimes', nil, 6)
    assert.are.equal(6, report.faults)
  end)
end)

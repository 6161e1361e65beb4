-- SPDX-License-Identifier: Apache-2.0

--- A metric is one record of the registry and one measurement: with these two lines in a copy of
-- lua/neap, every table, JSON document, column of the store, comparison and report has it.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

-- What CONTRIBUTING's "Add a metric" says: the files that are touched, where, and by what.
local EDITS = {
  { file = 'runs/metrics.lua', after = 'metrics.list = {\n', text = [[
  { name = 'remote_share', title = 'remote %', format = '%.2f', scale = 100, better = 'lower',
    ideal = 0, compared = true, stored = true,
    curve = { 'Tokens that leave their rank', '% of the routed' },
    doc = 'tokens that another rank computes / all' },
]] },
  { file = 'base/series.lua', after = 'std_percent = self.std:mean(),\n', text = [[
    remote_share = self.tokens > 0 and self.remote / self.tokens or 0,
]] },
}

-- A metric that follows from others, before the one that it follows from: this edit is all.
local DERIVED = { file = 'runs/metrics.lua', after = 'metrics.list = {\n', text = [[
  { name = 'own_share', title = 'own %', format = '%.2f', scale = 100, better = 'higher',
    ideal = 1, stored = true, curve = { 'Tokens that stay', '% of the routed' },
    derive = function(row) return row.remote_share and 1 - row.remote_share end,
    doc = 'tokens that their rank computes / all' },
]] }

-- One that the session counts.
local COUNTED = {
  { file = 'runs/metrics.lua', after = 'metrics.list = {\n', text = [[
  { name = 'splits', title = 'splits', format = '%d', better = 'lower', tables = '',
    stored = true, doc = 'layers whose tokens were split' },
]] },
  { file = 'policy/session.lua', after = 'counted = { faults = 0', text = ', splits = 0' },
  { file = 'policy/session.lua',
    after = 'self.measured.split_us:add((C.neap_clock() - start) * 1e6)\n',
    text = '  self.counted.splits = self.counted.splits + 1\n' },
}

local SMALL = 'run experiments/quickstart.lua --layers=2 --hidden=32 --heads=2 --kv-heads=1 '
  .. '--ffn=48 --experts=6 --slots=3 --batch=8 --sequence=32 --text=english --trace= -n 4 '
  .. '--node-size=2 --policies=static,laer --steps=4 '
local REPLAY = 'replay --trace experiments/traces/quickstart.safetensors --policy static '
  .. '--policy laer '
local SIMULATE = 'simulate --cluster a100x8 --layers 2 --steps 3 --policy static --policy laer '

local function edit(root, changes)
  for _, change in ipairs(changes) do
    local path = ('%s/lua/neap/%s'):format(root, change.file)
    local file = assert(io.open(path))
    local text = file:read '*a'
    file:close()
    local from, to = text:find(change.after, 1, true)
    assert.is_truthy(from, change.file)
    file = assert(io.open(path, 'w'))
    file:write(text:sub(1, to), change.text, text:sub(to + 1))
    file:close()
  end
end

describe('a metric that was added', function()
  local root, store

  setup(function()
    root = os.tmpname()
    os.remove(root)
    program.shell(("mkdir '%s' && cd '%s' && cp -r lua experiments '%s'"):format(root,
      launcher.home, root))
    store = root .. '/runs.db'
    -- the store is older than the metric
    assert.are.equal(0, (program.run(('%s --store %s'):format(SIMULATE, store))))
    edit(root, EDITS)
    edit(root, { DERIVED })
    edit(root, COUNTED)
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(root)) end)

  local function neap(arguments)
    local status, out, err = program.shell(("NEAP_HOME='%s' '%s' %s --store '%s'"):format(root,
      program.path, arguments, store))
    assert.are.equal(0, status, out .. err)
    return out
  end

  local function rows(arguments)
    return json.decode(neap(arguments .. ' --json')).rows
  end

  it('touches at most two files', function()
    assert.is_true(#EDITS <= 2)
  end)

  it('is in tables, in JSON, and in every step of the store', function()
    local steps_of = { run = 4, replay = 60, simulate = 3 }
    for _, command in ipairs { SMALL, REPLAY, SIMULATE } do
      local kind = command:match '^%w+'
      assert.matches('remote %%', neap(command), kind)
      local list = rows(command)
      for _, row in ipairs(list) do
        assert.is_true(row.remote_share > 0 and row.remote_share < 1, kind)
        assert.is_true(math.abs(row.own_share + row.remote_share - 1) < 1e-9, kind)
      end
      local last = rows('runs')
      local run = rows(('runs %d --steps'):format(last[#last].id))[1]
      for i, result in ipairs(run.results) do
        assert.are.equal(list[i].remote_share, result.summary.remote_share)
        assert.are.equal(steps_of[kind], #result.metrics, kind)
        for _, step in ipairs(result.metrics) do
          assert.is_true(step.remote_share > 0)
          if kind == 'run' then assert.are.equal(2, step.splits) end -- layers
          assert.is_true(math.abs(step.own_share + step.remote_share - 1) < 1e-9, kind)
        end
      end
      assert.matches('\nstep .*remote %%', neap(('runs %d --steps'):format(last[#last].id)))
    end
    local out = neap 'runs 1 --steps'
    assert.is_nil(out:find('remote %', 1, true)) -- recorded before
  end)

  it('is tried, compared and reported', function()
    local status, out = program.shell(("NEAP_HOME='%s' '%s' try laer --trace "
      .. 'experiments/traces/e8k2.safetensors'):format(root, program.path))
    assert.are.equal(0, status)
    assert.matches('remote %%', out)
    local last = rows('runs')
    for back = 0, 4, 2 do -- the runs of simulate, replay and run
      local id = last[#last - back].id
      local compared = rows(('compare %d --metric remote_share'):format(id))
      assert.are.same({ 'remote_share', 'lower', 0 }, { compared[1].metric, compared[1].better,
        compared[1].ideal })
      assert.matches('\nremote_share in %% %(lower is better%)', '\n'
        .. neap(('compare %d'):format(id)))
      neap(("report --run %d -o '%s/report.html'"):format(id, root))
      local file = assert(io.open(root .. '/report.html'))
      local html = file:read '*a'
      file:close()
      for _, text in ipairs { '<th>remote %</th>', 'Tokens that leave their rank',
        'Tokens that stay',
        '<b>remote share</b>: tokens that another rank computes / all' } do
        assert.is_truthy(html:find(text, 1, true), text)
      end
    end
  end)
end)

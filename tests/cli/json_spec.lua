-- SPDX-License-Identifier: Apache-2.0

--- --json: one shape for all commands, as docs/json.md has it.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'
local program = require 'tests.cli.program'

local TRACE = 'experiments/traces/quickstart.safetensors'
local RUN = 'run experiments/quickstart.lua --layers=1 --hidden=16 --heads=2 --kv-heads=1 --ffn=16 '
  .. '--experts=4 --slots=2 --batch=4 --sequence=16 --text=english --trace= -n 2 --steps=3 '
local SIMULATE = 'simulate --cluster a100x8 --layers 2 --steps 1 '

local store = os.tmpname()
os.remove(store)

-- Commands, their name in the document, and how many rows there are (nil: some).
local COMMANDS = {
  { RUN .. '--policies=static,tests/policies/fails.lua', 'run', 2, rows_of = 'metrics',
    status = 3 }, -- the second was never in force
  { RUN .. '--policies=static --device=sim --cluster=laptop', 'run', 1, rows_of = 'metrics' },
  { RUN .. '--dry-run', 'run', 6 },
  { 'run experiments/paper/breakdown.lua --steps=1 --seeds=1 --methods=laer', 'run', 2 },
  { 'run experiments/paper/balance.lua --steps=1 --seeds=2 --methods=laer', 'run', 6 },
  { 'replay --trace ' .. TRACE .. ' --policy static --policy laer:on=known', 'replay', 2,
    rows_of = 'metrics' },
  { SIMULATE .. '--policy static --policy laer', 'simulate', 2, rows_of = 'metrics' },
  { 'try laer --trace ' .. TRACE, 'try', 1 },
  { 'compare', 'compare' },
  { 'runs', 'runs', 6 },
  { 'runs 1 --steps', 'runs', 1 },
  { 'runs 5 --steps', 'runs', 1 },
  { 'sweep simulate policy=static cluster=a100x8 layers=1 steps=1', 'sweep', 1 },
  { 'policy list', 'policy' },
  { 'trace info ' .. TRACE, 'trace', 3 },
  { 'doctor', 'doctor' },
  { 'bench moe --tokens=16 --hidden=8 --ffn=8 --experts=2 --repeats=1', 'bench', 1 },
  { 'bench policy --repeats=100', 'bench', 1 },
}

local NO_STORE = { try = true, policy = true, trace = true, doctor = true, bench = true }

--- Calls visit(value, key) for a value and all that is in it.
local function walk(value, visit, key)
  visit(value, key)
  if type(value) ~= 'table' then return end
  for name, item in pairs(value) do walk(item, visit, name) end
end

local function check_values(document)
  walk(document, function(value, key)
    if type(value) == 'string' and value:match '^%s*[%[{]' then
      assert.is_nil(json.decode(value), ('%s is JSON in a string: %s'):format(key, value))
    end
    if key == 'imbalance' then
      assert.is_table(value)
      for _, name in ipairs(value.p50 and { 'mean', 'p50', 'p95', 'max' } or { 'mean', 'max' }) do
        assert.is_number(value[name])
      end
    end
  end)
end

local page = assert(io.open(launcher.home .. '/docs/json.md')):read '*a'

--- The keys of rows that the page has in a table's first column.
local documented = {}
for cell in page:gmatch '\n| ([^|\n]+) |[^|\n]+|%f[\n]' do
  for key in cell:gmatch '`([%w_]+)`' do documented[key] = true end
end

--- A metric stands under its name, as the page says, and the registry's list of them has its doc.
for _, metric in ipairs(metrics.list) do
  if metric.tables ~= '' and not metric.path then documented[metric.name] = true end
end

describe('--json', function()
  teardown(function() program.shell(('rm -f %s %s-wal %s-shm'):format(store, store, store)) end)

  for _, case in ipairs(COMMANDS) do
    local arguments, name, count = unpack(case)
    it('of neap ' .. arguments, function()
      local stored = not NO_STORE[name] and ' --store ' .. store or ''
      local status, out, err = program.run(arguments .. ' --json' .. stored)
      assert.are.equal(case.status or 0, status, err)
      assert.are.equal(1, select(2, out:gsub('\n', '')))
      local document = json.decode(out)
      assert.are.same({ lib.version, name }, { document.neap, document.command })
      assert.are.equal(count or #document.rows, #document.rows)
      assert.is_true(#document.rows > 0)
      for _, row in ipairs(document.rows) do assert.is_table(row) end
      check_values(document)
      if not case.rows_of then return end
      for _, row in ipairs(document.rows) do
        for key in pairs(row) do assert.is_true(documented[key] or false, key) end
        assert.is_number(row.imbalance.p50)
        assert.is_number(row.share_of_ideal)
      end
    end)
  end

  it('is documented: all metrics', function()
    local _, help = program.run 'compare --help'
    for _, metric in ipairs(metrics.list) do
      if metric.tables ~= '' then
        local key = (metric.path or { metric.name })[1]
        assert.is_true(documented[key] or false, key)
        assert.is_truthy(help:find(metric.doc, 1, true), metric.name)
      end
    end
  end)
end)

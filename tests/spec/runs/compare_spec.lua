-- SPDX-License-Identifier: Apache-2.0

local compare = require 'neap.runs.compare'
local json = require 'neap.base.json'
local store = require 'neap.runs.store'

local function remove(path)
  for _, suffix in ipairs { '', '-wal', '-shm' } do os.remove(path .. suffix) end
end

describe('compare', function()
  local path, runs
  before_each(function()
    path = os.tmpname()
    os.remove(path)
    runs = store.open(path, true)
  end)
  after_each(function()
    runs:close()
    remove(path)
  end)

  --- A finished result: imbalance and whatever more.
  local function add(policy, seed, imbalance, more)
    more = more or {}
    local id = runs:insert('runs', { kind = 'run', command = 'x', started = 1, heartbeat = 1,
      state = more.state or 'done', seed = seed, key = more.key })
    local summary = { imbalance = { mean = imbalance, max = imbalance + 0.5 },
      faults = more.faults or 0, plans_on = more.plans_on }
    runs:insert('results', { run = id, policy = policy, seed = seed, started = 1,
      context = more.context or 'c', policy_sha256 = more.text,
      summary = not more.open and json.encode(summary) or nil })
    return id
  end

  local function compared(options, choice)
    return compare.policies(compare.results(runs, choice or {}), options or {})
  end

  local function row_of(document, policy)
    for _, row in ipairs(document.metrics[1].rows) do
      if row.policy == policy then return row end
    end
  end

  it('warns where policies were not measured in the same circumstances', function()
    for seed = 1, 5 do
      add('static', seed, 2)
      add('laer', seed, 1.5)
      if seed < 5 then add('mine', seed, 1.2) end
    end
    add('mine', 1, 1.1, { context = 'other' })
    local warnings = table.concat(compared().warnings, '\n')
    assert.matches('mine: not of the same scripts, traces, parameters and seeds', warnings)
    assert.is_nil(warnings:find 'laer')
  end)

  it('pairs by seed and context, and calls the winner', function()
    for seed = 1, 6 do
      add('static', seed, 2 + 0.1 * seed)
      add('laer', seed, 1.5 + 0.1 * seed + 0.001 * (seed % 2))
      add('mine', seed, 1.2 + 0.1 * seed)
    end
    local document = compared()
    assert.are.equal('static', document.baseline)
    local row = row_of(document, 'mine')
    assert.are.same({ 6, 'better' }, { row.pairs, row.verdict })
    assert.is_near(-0.8, row.difference, 1e-9)
    assert.is_near(-0.8 / 2.35, row.relative, 1e-9)
    assert.is_true(row.low <= row.difference and row.difference <= row.high)
    local winner = document.metrics[1].winner
    assert.are.same({ 'mine', 'laer', 6 }, { winner.policy, winner.over, winner.pairs })
    assert.are.same({}, document.warnings)
    assert.are.equal('worse', row_of(compared { baseline = 'mine' }, 'laer').verdict)
  end)

  it('calls no winner on fewer than 5 pairs, whatever the difference', function()
    for seed = 1, 4 do
      add('static', seed, 2 + 0.1 * seed)
      add('mine', seed, 1 + 0.1 * seed)
    end
    add('mine', 9, 1)
    local document = compared()
    assert.are.equal('too few pairs (4 of 5)', row_of(document, 'mine').verdict)
    assert.is_nil(document.metrics[1].winner)
    assert.matches('4 pairs; a winner needs 5', document.metrics[1].reason)
  end)

  it('takes equal measurements under other seeds as one', function()
    for seed = 1, 6 do
      add('static', seed, 2)
      add('mine', seed, 1)
    end
    local document = compared()
    assert.are.equal(1, row_of(document, 'mine').pairs)
    assert.matches('5 pairs of other seeds are the same measurement', document.warnings[1])
  end)

  it('does not pair other circumstances, nor count what is unfinished or stale', function()
    for seed = 1, 6 do
      add('static', seed, 2 + 0.1 * seed)
      add('mine', seed, 9, { text = 'old' })
      add('mine', seed, 1 + 0.1 * seed, { text = 'new' })
      add('mine', seed, 9, { text = 'new', context = 'other' })
      add('mine', seed, 9, { text = 'new', state = 'failed' })
      add('mine', seed, 9, { text = 'new', open = true })
    end
    local document = compared()
    assert.is_near(-1, row_of(document, 'mine').difference, 1e-9)
    assert.matches('mine: its file has changed', document.warnings[1])
  end)

  it('warns of faults, outliers and noise; known loads do not win', function()
    for seed = 1, 7 do
      add('static', seed, 2)
      add('mine', seed, seed == 3 and 5 or 1.9 + 0.01 * seed, { faults = seed == 2 and 4 })
      add('laer:on=known', seed, 1 + 0.001 * seed, { plans_on = 'known' })
    end
    local document = compared()
    local text = table.concat(document.warnings, '\n')
    assert.matches('mine: 4 faults', text)
    assert.matches('mine, imbalance: seed 3, run %d+ is an outlier', text)
    assert.matches('mine, imbalance: noise', text)
    assert.is_nil(document.metrics[1].winner)
  end)

  it('chooses sweeps, runs, policies and metrics; refuses unknown names', function()
    local first = add('static', 1, 2, { key = 'k1' })
    add('laer', 1, 1.5, { key = 'k2' })
    add('mine', 1, 1.1)
    runs:insert('sweeps', { name = 's', number = 1, key = 'k1', arguments = '' })
    runs:insert('sweeps', { name = 's', number = 2, key = 'k2', arguments = '' })
    assert.are.equal(2, #compare.results(runs, { sweep = 's' }))
    assert.are.equal(1, #compare.results(runs, { runs = { first } }))
    assert.are.same({ 'static', 'laer' }, compared({ policies = { 'laer' } }).policies)
    assert.is_nil(row_of(compared({ metrics = { 'share_of_ideal' } }), 'mine').low)
    local ok, err = pcall(compared, { metrics = { 'imbalanse' } })
    assert.is_false(ok)
    assert.matches("did you mean 'imbalance'", err.message)
    ok, err = pcall(compared, { baseline = 'sttaic' })
    assert.is_false(ok)
    assert.matches("did you mean 'static'", err.message)
  end)
end)

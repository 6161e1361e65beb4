-- SPDX-License-Identifier: Apache-2.0

local browser = require 'tests.cli.browser'
local intervals = require 'neap.draw.intervals'
local json = require 'neap.base.json'
local page = require 'neap.report.page'
local program = require 'tests.cli.program'

local folder = os.tmpname()
os.remove(folder)
os.execute(("mkdir '%s'"):format(folder))

local function path_of(name)
  return folder .. '/' .. name
end

local function read(path)
  local file = assert(io.open(path, 'rb'))
  local text = file:read '*a'
  file:close()
  return text
end

local function write(name, text)
  local file = assert(io.open(path_of(name), 'wb'))
  file:write(text)
  file:close()
  return path_of(name)
end

local RANKS, EXPERTS = 12, 20

--- Loads that drift: 9 steps of 2 layers.
local function make_csv()
  local names = {}
  for e = 0, EXPERTS - 1 do names[e + 1] = 'e' .. e end
  local lines = { 'step,layer,rank,' .. table.concat(names, ',') }
  for step = 0, 8 do
    for layer = 0, 1 do
      for rank = 0, RANKS - 1 do
        local counts = {}
        for e = 0, EXPERTS - 1 do
          counts[e + 1] = 20 + (e == (step + layer) % EXPERTS and 900 or 0) + (rank * e) % 7
        end
        lines[#lines + 1] = ('%d,%d,%d,%s'):format(step, layer, rank, table.concat(counts, ','))
      end
    end
  end
  return table.concat(lines, '\n') .. '\n'
end

--- Runs neap with its store in the folder; checks the status. Returns stdout, stderr.
local function expect(status, arguments, pattern)
  local got, out, err = program.shell(("cd '%s' && NEAP_STORE=runs.db '%s' %s </dev/null"):format(
    folder, program.path, arguments))
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out, err
end

local function chromium(arguments)
  return browser.chromium(path_of 'profile', arguments)
end

local function look_at(html)
  return browser.look_at(path_of 'profile', html)
end

describe('neap report', function()
  local csv = write('a.csv', make_csv())
  -- A path without a place to break is longer than a phone is wide.
  local mine = write('<odd> & ' .. ('long'):rep(40) .. '.lua', [[
    local Mine = require('neap.policy').define { name = 'mine' }
    function Mine.plan(_, ctx)
      if ctx.step == 7 then error 'lost & <found>' end
      return ctx:plan('laer')
    end
    return Mine]])
  local base = ("--trace '%s' --slots 2 --node-size 4 --policy static --policy laer "):format(csv)

  teardown(function() os.execute(("rm -r '%s'"):format(folder)) end)

  it('writes one page that fits every screen, without scripts or network', function()
    expect(0, 'simulate --cluster a100x8 --model moe-1.2b --steps 1 --policy laer --no-store '
      .. '--timeline step.json')
    expect(0, ("report %s --policy '%s' --policy laer:on=known --timeline step.json -o a.html")
      :format(base, mine))
    local html = read(path_of 'a.html')
    for _, title in ipairs { 'Summary', 'Comparison', 'Over the steps', 'Load of the experts',
      'Work of the ranks', 'Layouts: the largest change', 'Timeline of a step',
      'Faults of policies',
      'Where this comes from' } do
      assert.is_truthy(html:find(title, 1, true), title)
    end
    assert.is_nil(html:find '<script')
    assert.is_nil(html:gsub('xmlns="http://www.w3.org/2000/svg"', ''):find 'https?://')
    assert.is_truthy(html:find('lost &amp; &lt;found&gt;', 1, true))
    assert.is_nil(html:find('<odd>', 1, true))
    local found, console = look_at(html)
    assert.matches('^360: fits, %d+ pictures\n390: fits, %d+ pictures\n768: fits, %d+ pictures\n'
      .. '1300: fits, %d+ pictures$',
      found)
    assert.are.equal('', console)
  end)

  it('fits with as many columns as there can be, and differences that are none', function()
    local titles = { 'tokens/s', 'step ms', 'simulated step ms', 'imbalance', 'better than static',
      'better than laer', 'p95', 'max', 'std %', '% of ideal', 'utilization %', 'exposed %',
      'inter-node %', 'plan ms', 'split us', 'faults', 'late', 'loss', 'bits/byte',
      '% of force-balanced', 'late sent', 'late experts' }
    local tables = {}
    for i, columns in ipairs { 14, 19, 22 } do
      local heading, row = { 'policy' }, { 'laer+minimax:window=3' }
      for column = 1, columns do
        heading[column + 1], row[column + 1] = titles[column], column < 4 and '22155.9' or '1.4354'
      end
      tables[i] = page.table(heading, { row })
    end
    local drawn = intervals.draw { title = 'inter node share, difference from static',
      unit = 'lower is better; lines are 95 % intervals', show = tostring,
      rows = { { name = 'laer', mean = 0, low = -1e-16, high = 0 } } }
    local html = page.render('wide', '', { { title = 'Comparison',
      body = table.concat(tables) .. page.grid { page.figure(drawn) } } }, '')
    assert.matches('^360: fits, 1 pictures\n390: fits, 1 pictures\n768: fits, 1 pictures\n'
      .. '1300: fits, 1 pictures$', (look_at(html)))
  end)

  it('can be seen', function()
    local shot = path_of 'a.png'
    local _, console = chromium(("--window-size=1280,3000 --screenshot='%s' 'file://%s'"):format(
      shot, path_of 'a.html'))
    assert.are.equal('', console)
    assert.is_true(#read(shot) > 50000)
  end)

  it('tells about the last run of the store', function()
    expect(0, ("replay %s"):format(base))
    assert.are.equal('report.html\n', (expect(0, 'report')))
    local html = read(path_of 'report.html')
    assert.is_truthy(html:find('Neap: run 1', 1, true))
    assert.is_truthy(html:find('neap replay --trace', 1, true))
    assert.is_truthy(html:find('Load of the experts, layer', 1, true))
    expect(2, 'report --run 7', 'runs.db has no run 7; neap runs lists them')
    os.rename(csv, csv .. '.gone')
    expect(0, 'report --run 1', 'no pictures of loads and layouts: ')
    os.rename(csv .. '.gone', csv)
  end)

  it('tells about simulations, from the store and in JSON, of earlier versions too', function()
    local simulate = 'simulate --cluster a100x8 --layers 2 --steps 3 --policy static --policy laer'
    local function check(arguments)
      expect(0, ('report %s -o sim.html'):format(arguments))
      local html = read(path_of 'sim.html')
      for _, text in ipairs { ' is fastest: ', 'Times are simulated: ', '<th>step ms</th>' } do
        assert.is_truthy(html:find(text, 1, true), text)
      end
      return html
    end
    expect(0, simulate)
    assert.is_truthy(check(''):find('Exposed communication', 1, true))
    local document = json.decode((expect(0, simulate .. ' --json >sim.json; cat sim.json')))
    check 'sim.json'
    document.neap, document.command = nil, nil
    for _, row in ipairs(document.rows) do
      row.simulated = nil
      row.imbalance, row.spread = row.imbalance.mean, row.imbalance
    end
    write('old.json', json.encode(document))
    check 'old.json'
    expect(0, 'runs --json >runs.json')
    expect(2, 'report runs.json', 'runs.json: no result of')
  end)

  it('takes results in JSON', function()
    expect(0, ('replay --json %s >a.json'):format(base))
    expect(0, 'report a.json --title "A < B" -o b.html')
    assert.is_truthy(read(path_of 'b.html'):find('<h1>A &lt; B</h1>', 1, true))
    write('bad.json', '[1')
    expect(2, 'report bad.json', 'bad.json: no result of neap run %-%-json')
    expect(1, 'report none.json', 'none.json: No such file')
  end)
end)

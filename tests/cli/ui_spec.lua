-- SPDX-License-Identifier: Apache-2.0

--- neap ui and neap watch over a store in which a run goes on: this process's own.

local browser = require 'tests.cli.browser'
local engine_layout = require 'neap.engine.layout'
local errors = require 'neap.base.errors'
local ffi = require 'ffi'
local live = require 'neap.runs.live'
local marks = require 'neap.runs.marks'
local moments = require 'neap.runs.moments'
local program = require 'tests.cli.program'
local request = require 'http.request'
local server = require 'neap.ui.server'
local store = require 'neap.runs.store'
local topology = require 'neap.engine.topology'

local RUNS, STEPS = 1000, 10
local TITLE = "<title>Neap: runs</title>"

local folder = os.tmpname()
os.remove(folder)
os.execute(("mkdir '%s'"):format(folder))
local path = folder .. '/runs.db'

local function read(name)
  local file = io.open(name, 'rb')
  local text = file and file:read '*a' or ''
  if file then file:close() end
  return text
end

local function add_step(runs, result, step)
  runs:write('INSERT INTO steps(result, step, loss, imbalance, exposed, tokens_per_second) '
    .. 'VALUES(?, ?, ?, ?, ?, ?)', result, step, 5 - 0.1 * step, 1.5, 0.25, 1000 + step)
end

--- A sweep of three runs of which the first is done, with these options; its cells are runs 10, 11
-- (failed) and none.
local function add_sweep(runs)
  for number, key in ipairs { 'k10', 'k14', 'to come' } do
    runs:insert('sweeps', { name = 'my sweep', number = number, key = key,
      arguments = ('x.lua --policies=%s --seed=%d'):format(number < 3 and 'laer' or 'hot',
        number) })
  end
  runs:write("UPDATE runs SET sweep = 'my sweep' WHERE id IN (10, 14)")
  runs:insert('results', { run = 10, policy = 'laer', started = 10, ended = 12,
    summary = '{"imbalance":{"mean":1.25}}' })
end

--- A store of runs of which the last one is this process's; returns it and the result's id.
local function make_store()
  local runs = store.open(path, true)
  runs:write 'BEGIN'
  for i = 1, RUNS - 1 do
    runs:insert('runs', { kind = 'replay', command = 'neap replay ' .. i, key = 'k' .. i,
      started = i, ended = i + 2, heartbeat = i, state = i % 7 == 0 and 'failed' or 'done' })
  end
  runs:write 'COMMIT'
  local id = runs:begin { kind = 'run', command = 'neap run <odd>.lua', key = 'own',
    parameters = ('{"steps":%d,"policies":["laer"]}'):format(STEPS) }
  local result = runs:insert('results', { run = id, policy = 'laer', started = 1 })
  for step = 0, 2 do add_step(runs, result, step) end
  add_sweep(runs)
  return runs, result, id
end

describe('neap ui', function()
  local runs, result, id = make_store()
  local url, origin, pid

  setup(function()
    pid = select(2, program.shell(("'%s' ui --store '%s' >'%s/out' 2>'%s/err' </dev/null & echo $!")
      :format(program.path, path, folder, folder))):match '%d+'
    for _ = 1, 200 do
      url = read(folder .. '/out'):match '^(http%S+)\n'
      if url then break end
      program.shell 'sleep 0.05'
    end
    assert.is_string(url, read(folder .. '/err'))
    origin = url:match '^http://[^/]+'
  end)

  teardown(function()
    program.shell('kill ' .. pid)
    runs:close()
    program.shell(("rm -r '%s'"):format(folder))
  end)

  --- Status and text of an address; change(headers) may spoil the request.
  local function get(address, change)
    local asked = request.new_from_uri(address)
    asked.headers:upsert('accept', '*/*')
    if change then change(asked.headers) end
    local headers, stream = asked:go(20)
    return tonumber(headers:get ':status'), stream:get_body_as_string(20), headers
  end

  it('lists runs, newest first, chosen by words', function()
    local status, text, headers = get(url)
    assert.are.equal(200, status)
    assert.matches("default%-src 'none'", headers:get 'content-security-policy')
    assert.is_truthy(text:find(TITLE, 1, true))
    assert.is_truthy(text:find('200 of 1000 runs', 1, true))
    assert.is_true(text:find('>run 1000<', 1, true) < text:find('>run 999<', 1, true))
    assert.is_nil(text:find('>run 1<', 1, true))
    assert.is_truthy(select(2, get(url .. '?all=1')):find('>run 1<', 1, true))
    local _, failed = get(url .. '?q=failed+replay&part=1')
    assert.is_truthy(failed:find('142 of 142 runs', 1, true))
    assert.is_nil(failed:find('<html', 1, true))
    assert.is_truthy(select(2, get(url .. '?q=%3Codd')):find('1 of 1 runs', 1, true))
    local _, odd = get(url .. '?q=%3Codd')
    assert.is_truthy(odd:find('data-label="progress"><progress', 1, true))
    assert.is_truthy(select(2, get(url .. '?q=nothing')):find('No run matches', 1, true))
  end)

  it('shows a run as it goes on', function()
    local page = url .. 'run/' .. id
    local _, before = get(page)
    assert.is_truthy(before:find('3 of 10 steps, ', 1, true), before)
    assert.is_truthy(before:find('<title>Loss</title>', 1, true))
    assert.is_truthy(before:find('neap run &lt;odd&gt;.lua', 1, true))
    add_step(runs, result, 3)
    assert.is_truthy(select(2, get(page .. '?part=1')):find('4 of 10 steps, ', 1, true))
  end)

  it('shows loads by layer and what has changed of a layout', function()
    -- Two layers, two ranks of two slots, four experts; of layer 1 one slot changes.
    local layout = engine_layout.open(topology.open { ranks = 2, slots = 2, experts = 4 })
    layout:set { { 0, 1 }, { 2, 3 } }
    local session = { topology = layout.topology, layers = 2,
      layout = function() return layout end }
    local load = ffi.new('int64_t[8]', { 1, 2, 3, 4, 10, 20, 30, 40 })
    local kept = moments.open(runs, result)
    kept:load(0, 0, load, session)
    kept:load(0, 1, load, session)
    kept.next = math.huge
    kept:load(1, 0, load, session) -- too soon
    kept:load(1, 1, load, session)
    kept.next = 0
    kept:load(2, 0, load, session)
    layout:set { { 3, 1 }, { 2, 0 } }
    kept:load(2, 1, load, session)
    local list = moments.read(runs, result, 9)
    assert.is_true(kept.next >= kept.cost * 128) -- less than 1 % of the time
    assert.are.same({ 0, 2 }, { list[1].step, list[2].step })
    assert.are.same({ { 11, 22, 33, 44 }, { 11, 22, 33, 44 } }, list[2].loads)
    assert.are.same({ { 3, 1 }, { 2, 0 } }, list[2].layouts[2])
    assert.are.same(list[1].layouts, { list[2].layouts[1], list[2].layouts[1] })
    local _, text = get(url .. 'run/' .. id)
    assert.is_truthy(text:find('Load of the experts, step 2', 1, true))
    assert.is_truthy(text:find('Layout of layer 1', 1, true))
    assert.is_truthy(text:find('of its slots 2 have another expert than at step 0', 1, true), text)
    assert.is_truthy(text:find('rank 0, slot 0: expert 3, was 0', 1, true))
  end)

  it('steps through the layouts of each layer', function()
    local page = url .. 'run/' .. id .. '/layouts'
    local status, text = get(page)
    assert.are.equal(200, status)
    assert.is_truthy(text:find('<b>step 2</b> <span class="note">moment 2 of 2', 1, true), text)
    assert.is_truthy(text:find('Step 2; of its slots 0 have', 1, true))
    assert.is_truthy(text:find('<title>Replicas of the experts</title>', 1, true))
    assert.is_truthy(text:find('href="?policy=1&amp;layer=1" data-key="ArrowDown"', 1, true))
    local _, below = get(page .. '?policy=1&layer=1')
    assert.is_truthy(below:find('Step 2; of its slots 2 have', 1, true))
    local earlier = below:match '<a href="([^"]*)" data%-key="ArrowLeft"':gsub('&amp;', '&')
    local _, first = get(page .. earlier)
    assert.is_truthy(first:find('<b>step 0</b>', 1, true))
    assert.is_truthy(first:find('rank 0, slot 0: expert 0<', 1, true))
    assert.is_nil(first:find('data-key="ArrowLeft"', 1, true))
    for _, odd in ipairs { '?layer=99&step=7&policy=5', '?layer=-1', '?layer=nan&step=' } do
      assert.are.equal(200, (get(page .. odd)), odd)
    end
    assert.is_truthy(select(2, get(url .. 'run/1/layouts')):find('No loads and layouts', 1, true))
  end)

  it('shows how far a sweep is and what is best', function()
    local page = url .. 'sweep?name=my%20sweep'
    local _, text = get(page)
    assert.is_truthy(text:find('2 of 3 runs', 1, true), text)
    assert.is_truthy(text:find('1 done, 1 failed, 0 running, 1 to do', 1, true))
    assert.matches('<tr class="best"><td[^>]*>laer</td><td[^>]*>policies=laer</td>', text)
    assert.matches('data%-label="imbalance">1%.2500<', text)
    assert.is_truthy(text:find('policies=hot seed=3', 1, true))
    runs:write('UPDATE sweeps SET key = ? WHERE number = 3', 'own')
    local _, going_on = get(page .. '&part=1')
    assert.is_truthy(going_on:find('2 of 3 runs, ', 1, true), going_on) -- and the time left
    assert.is_truthy(going_on:find('data-every="1000"', 1, true))
    assert.is_truthy(going_on:find('<title>Loss</title>', 1, true))
    runs:write("UPDATE runs SET sweep = 'my sweep' WHERE id = ?", id)
    assert.is_truthy(select(2, get(url)):find('sweep <a href="sweep?name=my%20sweep"', 1, true))
    assert.are.equal(404, (get(url .. 'sweep?name=no')))
    local _, out = program.run(("watch --once --store '%s'"):format(path))
    assert.matches('^sweep my sweep, 1 of 3 runs done, 1 failed, 1 running, .* left\n', out)
    runs:write('UPDATE runs SET sweep = NULL WHERE id = ?', id)
  end)

  it('shows what a run has said, and its sources', function()
    runs:write("UPDATE runs SET error = ?, script = 'x.lua', script_sha256 = ? WHERE id = 7",
      'exit status 1: <b>\nits last line', runs:text 'return 42')
    local _, text = get(url .. 'run/7/log')
    assert.is_truthy(text:find('exit status 1: &lt;b&gt;\nits last line', 1, true))
    assert.is_truthy(text:find('x.lua</summary><pre>return 42', 1, true))
    assert.is_truthy(select(2, get(url .. 'run/8/log')):find('has said nothing', 1, true))
  end)

  it('tells the time left of a run that was resumed', function()
    local one = live.find(runs, id)
    local _, _, before = live.progress(runs, one)
    runs:write('UPDATE steps SET seconds = 1e9 WHERE result = ?', result)
    local done, total, left = live.progress(runs, one)
    assert.are.equal(1e9 * (total - done), left)
    assert.is_true(before < left)
    runs:write('UPDATE steps SET seconds = NULL WHERE result = ?', result)
  end)

  it('refuses other tokens, hosts, origins and what would change something', function()
    local function header(name, value)
      return function(headers) headers:upsert(name, value) end
    end
    local wrong = origin .. '/' .. ('0'):rep(32) .. '/'
    for _, address in ipairs { wrong, wrong .. 'run/1', origin .. '/', origin .. '//',
      url:sub(1, -3) .. '/' } do
      local status, text = get(address)
      assert.are.equal(403, status, address)
      assert.is_nil(text:find('run 1', 1, true))
    end
    assert.are.equal(403, (get(url, header(':authority', 'evil.example'))))
    assert.are.equal(403, (get(url, header('origin', 'http://evil.example'))))
    assert.are.equal(403, (get(url, header('origin', 'null'))))
    assert.are.equal(200, (get(url, header('origin', origin))))
    assert.are.equal(405, (get(url, header(':method', 'POST'))))
    for _, rest in ipairs { 'run/1001', 'run/1/x', 'runs.db', '../etc/passwd', 'report?run=7000',
      'report' } do
      assert.are.equal(404, (get(url .. rest)), rest)
    end
  end)

  it('reads a store and cannot change it', function()
    local reading = live.open { store = path }
    assert.has_error(function() reading:write 'DELETE FROM runs' end)
    assert.are.equal(RUNS, #reading:runs())
    reading:close()
  end)

  it('draws the timeline of a step, if its file is there', function()
    local file = folder .. '/step.json'
    assert.are.equal(0, (program.run(('simulate --cluster a100x8 --model moe-1.2b --steps 1 '
      .. "--policy laer --timeline '%s' --store '%s'"):format(file, path))))
    local page = url .. 'run/' .. id + 1
    assert.is_truthy(select(2, get(page)):find('timeline of a step', 1, true))
    local status, text = get(page .. '/timeline')
    assert.are.equal(200, status)
    assert.is_truthy(text:find('<svg', 1, true))
    os.remove(file)
    assert.are.equal(404, (get(page .. '/timeline')))
    assert.are.equal(404, (get(url .. 'run/1/timeline')))
  end)

  it('says what is missing', function()
    local loaded, preload = package.loaded['http.server'], package.preload['http.server']
    package.loaded['http.server'] = nil
    package.preload['http.server'] = function() error 'not here' end
    local ok, err = pcall(server.open, runs, 0)
    package.loaded['http.server'], package.preload['http.server'] = loaded, preload
    assert.is_false(ok)
    assert.matches('run: apt%-get install lua%-http', errors.text(err))
  end)

  it('fits screens and follows a run in a browser, without a word on its console', function()
    if not browser.installed() then return pending 'skipped: no chromium' end
    local parts = {}
    for i, address in ipairs { url .. '?q=failed', url .. 'run/' .. id,
      url .. 'run/' .. id .. '/layouts', url .. 'sweep?name=my+sweep' } do
      parts[i] = select(2, get(address)):gsub('<script.-</script>', '')
    end
    for _, html in ipairs(parts) do
      local found = browser.look_at(folder .. '/profile', html)
      for _, width in ipairs { 390, 1300 } do assert.matches(width .. ': fits', found) end
    end
    browser.open(folder .. '/live', url .. 'run/' .. id, function(evaluate)
      local function shows(text)
        local script = ("document.readyState + ' ' + location.href.length + ' ' + "
          .. "(document.getElementById('live') || {}).textContent")
        for _ = 1, 200 do
          if evaluate(script):find(text, 1, true) then return true end
          program.shell 'sleep 0.05'
        end
      end
      assert.is_true(shows '4 of 10 steps')
      add_step(runs, result, 4)
      assert.is_true(shows '5 of 10 steps')
    end)
    local dom, console = browser.chromium(folder .. '/profile',
      ("--virtual-time-budget=4000 --dump-dom '%srun/%d'"):format(url, id))
    assert.are.equal('', console)
    assert.matches('id="live" data%-shown="%d+"', dom)
    assert.is_truthy(dom:find('5 of 10 steps', 1, true))
  end)

  it('is used by keyboard', function()
    if not browser.installed() then return pending 'skipped: no chromium' end
    browser.open(folder .. '/keys', url, function(evaluate, press)
      local function until_true(script)
        for _ = 1, 100 do
          local value = evaluate("document.readyState == 'complete' && String(" .. script .. ')')
          if value == 'true' then return end
          program.shell 'sleep 0.05'
        end
        error(script .. ' is not so: ' .. tostring(evaluate 'location.href'), 0)
      end
      local function focused(name)
        until_true(("document.activeElement.id == '%s'"):format(name))
      end
      until_true "document.querySelector('#live table') != null"
      press '/'
      focused 'q'
      press 'Escape'
      until_true 'document.activeElement == document.body'
      press 'ArrowDown'
      focused('a' .. id + 1)
      press 'ArrowDown'
      focused('a' .. id)
      press 'ArrowDown'
      focused 'a999'
      press 'ArrowUp'
      focused('a' .. id)
      press 'Tab'
      focused 'r999'
      press ' '
      until_true "document.getElementById('r999').checked"
      program.shell 'sleep 1.2' -- the page is fetched again: focus and choice stay
      focused 'r999'
      until_true "document.getElementById('r999').checked"
      press 'ArrowUp'
      focused('a' .. id)
      press 'Enter'
      until_true(("location.pathname.endsWith('/run/%d')"):format(id))
      evaluate "document.getElementById('layouts').focus()"
      press 'Enter'
      until_true "location.pathname.endsWith('/layouts')"
      press 'ArrowLeft'
      until_true "location.search.includes('step=0')"
      press 'ArrowDown'
      until_true "location.search.includes('layer=1&step=0')"
      press 'ArrowRight'
      until_true "location.search.includes('layer=1&step=2')"
      press 'Escape'
      until_true(("location.pathname.endsWith('/run/%d')"):format(id))
      press 'Escape'
      until_true "document.getElementById('q') != null"
    end)
  end)

  it('repaints a terminal without clearing it', function()
    local status, out = program.shell(("script -qec \"'%s' watch --once --store '%s'\" /dev/null "
      .. '</dev/null'):format(program.path, path))
    assert.are.equal(0, status)
    assert.are.equal(1, select(2, out:gsub('\27%[2J', '')))
    assert.matches('\27%[Hrun 1000, running.-\27%[K\r?\n.*\27%[K\r?\n\27%[J$', out)
  end)

  it('has its like in the terminal', function()
    local status, out = program.run(("watch --once --store '%s'"):format(path))
    assert.are.equal(0, status)
    assert.matches('run 1000, running, 5 of 10 steps, .* left\n', out)
    assert.matches('laer +4 +4%.6000 +1%.5000 +25%.0 +1004 +█', out)
    local wrong, _, err = program.run(("watch 7000 --store '%s'"):format(path))
    assert.are.equal(2, wrong)
    assert.matches('run 7000 is not in ', err)
    assert.are.equal(2, (program.run 'ui --port 70000'))
  end)

  it('loses moments with their run', function()
    marks.remove(runs, { { id = id, state = 'done' } })
    assert.are.same({}, moments.read(runs, result, 9))
    assert.are.equal(0, #runs:rows('SELECT 1 FROM runs WHERE id = ?', id))
  end)
end)

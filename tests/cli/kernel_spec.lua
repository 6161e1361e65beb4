-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

--- Runs cells in one kernel; returns what each gave (tests/kernel_session.py).
local function run(cells)
  local file, data = os.tmpname(), os.tmpname()
  os.remove(data)
  local out = assert(io.open(file, 'w'))
  out:write(json.encode(cells))
  out:close()
  local status, text, err = program.shell(("export JUPYTER_DATA_DIR='%s'; '%s' kernel install >&2 "
    .. "&& /usr/bin/python3 '%s/tests/kernel_session.py' <'%s'"):format(data, program.path,
    program.home, file))
  os.execute(("rm -r '%s' '%s'"):format(file, data))
  assert.are.equal(0, status, err)
  return json.decode(text)
end

local LAYOUT = [[
local topology = neap.topology.open { ranks = 4, node_size = 2, slots = 2, experts = 4 }
local layout = neap.layout.open(topology):set { { 0, 1 }, { 2, 3 }, { 0, 1 }, { 2, 3 } }
layout]]

local CRASH = [[
local ffi = require 'ffi'
ffi.cdef 'int raise(int);'
ffi.C.raise(11)]]

local PRINTS = [[
local topology = neap.topology.open { ranks = 2, slots = 2, experts = 2 }
local session = neap.session.open { topology = topology, layers = 1, wait = true,
  policy = 'tests/policies/prints.lua' }
session:record(0, 0, neap.lib.ffi.new('int64_t[4]', 1, 2, 3, 4))
session:advance(1)
session:close()]]

describe('the Jupyter kernel', function()
  local results = run {
    'local x = 20\nfunction double(n) return 2 * n end\nprint "hello"',
    'x = x + 1\nreturn double(x) -- a comment',
    'local function inner() return nil + x end\nlocal function outer() inner() end\nouter()',
    'io.stderr:write "careful\\n"\nos.exit(3)',
    'interrupt:while true do x = x + 1 end',
    'x > 21',
    LAYOUT,
    'show(neap.display.table({ "a" }, { { 1 } }))\nx and "<last>"',
    'complete:neap.display.ta',
    'x = = 2',
    CRASH,
    'x',
    'show(("é"):sub(1, 1))\nlocal rest = ("é"):sub(2)\nrest',
    'error(setmetatable({}, { __tostring = function() return "\\200" end }))',
    '1 + 1',
    'error {}',
    'complete:function Mine:plan(ctx)\n  for e in ctx:re',
    'complete:ctx.history:s', 'complete:load:by_', 'complete:ctx.',
    'inspect:ctx:replicas', 'inspect:neap.replay.score', 'inspect:neap.replay.score {',
    'inspect:neap.replay', 'inspect:nothing.at.all',
    'is_complete:for i = 1, 3 do', 'is_complete:1 + 1', 'is_complete:x = = 2',
    'is_complete:local y = {',
    PRINTS,
    'neap.chart.heat { title = "Heat", rows = 1, columns = 1, x = "x", y = "y", unit = "u", '
      .. 'at = function() return 1 end }',
  }

  local function output(i, kind)
    for _, one in ipairs(results[i].outputs) do
      if one.type == kind then return one end
    end
  end

  it('keeps locals and shows the last expression', function()
    assert.are.equal('hello\n', output(1, 'stream').text)
    assert.are.equal('42', output(2, 'execute_result').data['text/plain'])
  end)

  it('tells where an error was', function()
    local failed = output(3, 'error')
    assert.matches('^cell 3:1: attempt to perform arithmetic', failed.evalue)
    assert.matches("\tcell 3:1: in function 'inner'\n\tcell 3:2: in function .*\n\tcell 3:3: in",
      table.concat(failed.traceback, '\n'))
    assert.matches("^cell 9:1: unexpected symbol near '='", output(10, 'error').evalue)
  end)

  it('outlives os.exit, which ends the cell', function()
    assert.are.equal('careful\n', output(4, 'stream').text)
    assert.matches('os.exit%(3%) ends the cell only', output(4, 'error').evalue)
  end)

  it('can be interrupted, and keeps its variables', function()
    assert.are.equal('interrupted', output(5, 'error').ename)
    assert.are.equal('true', output(6, 'execute_result').data['text/plain'])
  end)

  it('shows pictures and tables', function()
    local data = output(7, 'execute_result').data
    assert.matches('node 0 | 0 1 ', data['text/plain'])
    assert.matches('<svg', data['text/html'])
    assert.matches('<table>.*<td style="text%-align:right">1</td>',
      output(8, 'display_data').data['text/html'])
    assert.are.equal('<last>', output(8, 'execute_result').data['text/plain'])
  end)

  it('answers the cell that asked, also with text that is no UTF-8', function()
    assert.are.equal('\239\191\189', output(13, 'display_data').data['text/plain'])
    assert.are.equal('\239\191\189', output(13, 'execute_result').data['text/plain'])
    assert.are.equal('\239\191\189', output(14, 'error').evalue)
    assert.are.equal('2', output(15, 'execute_result').data['text/plain'])
    assert.are.equal('an error without a text (a table value)', output(16, 'error').evalue)
  end)

  it('completes names', function()
    assert.are.same({ 'table' }, results[9].matches)
    assert.are.equal(2, results[9].cursor_end - results[9].cursor_start)
  end)

  it('completes what hooks are handed, which is no value here', function()
    assert.are.same({ 'replicas' }, results[17].matches)
    assert.are.same({ 'sum' }, results[18].matches)
    assert.are.same({ 'by_expert', 'by_rank' }, results[19].matches)
    local members = ' ' .. table.concat(results[20].matches, ' ') .. ' '
    for _, name in ipairs { 'cost', 'history', 'layout', 'previous', 'replicas', 'step' } do
      assert.is_truthy(members:find(' ' .. name .. ' ', 1, true), name .. members)
    end
  end)

  it('shows what the reference says', function()
    assert.matches('^Context:replicas%(by_expert%) : double%[experts%] %-> iterator of '
      .. 'integer, integer\n\nby_expert%[experts%]: tokens',
      results[21].data['text/plain'])
    for i = 22, 23 do
      assert.matches('^replay.score%(options%) : table %-> table\n\nReplays a trace',
        results[i].data['text/plain'])
    end
    assert.matches('^Recorded loads under a policy', results[24].data['text/plain'])
    assert.are.equal(false, results[25].found)
  end)

  it('knows whether more lines are to come', function()
    local list = {}
    for i = 26, 29 do list[#list + 1] = results[i].status end
    assert.are.same({ 'incomplete', 'complete', 'invalid', 'incomplete' }, list)
  end)

  it('shows what policies print, with the cell that ran them', function()
    assert.matches('noise from a policy', output(30, 'stream').text)
  end)

  it('says in words what a picture shows', function()
    local shown = output(31, 'execute_result')
    assert.are.same({ ['image/svg+xml'] = { alt = 'Heat' } }, shown.metadata)
  end)

  it('starts a new process after a crash, and says so', function()
    assert.matches('ended %(signal 11%); a new one has been started, without the variables',
      output(11, 'error').evalue)
    assert.are.equal('nil', output(12, 'execute_result').data['text/plain'])
  end)
end)

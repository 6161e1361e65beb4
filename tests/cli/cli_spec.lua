-- SPDX-License-Identifier: Apache-2.0

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local PROBE = program.home .. '/tests/cli/recipes/probe.lua '

--- Runs neap and checks the status; the patterns must match stderr. Returns stdout, stderr.
local function expect(status, arguments, ...)
  local got, out, err = program.run(arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  for _, pattern in ipairs { ... } do assert.matches(pattern, err) end
  return out, err
end

--- Lines of a text.
local function lines(text)
  return select(2, text:gsub('\n', ''))
end

describe('neap', function()
  it('refuses lists that are empty, and says how large a number can be', function()
    for arguments, message in pairs {
      ['replay --trace x --policy='] = '--policy is empty; it must have one value or more',
      ['simulate --policies=,'] = '--policy is empty; it must have one value or more',
      ['compare --metric='] = '--metric is empty; it must have one value or more',
      ['replay --trace x --seed 9007199254740993'] =
        "--seed is '9007199254740993'; it must be a whole number from 0 to 2147483647",
      ['run experiments/quickstart.lua --seed=9007199254740993'] =
        '--seed is 9007199254740993; it can be 2147483647 at most',
    } do
      local status, out, err = program.run(arguments)
      assert.are.equal(2, status, err)
      assert.are.equal('', out)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)

  it('tells its commands', function()
    for _, arguments in ipairs { '', '--help' } do
      local out = expect(0, arguments)
      for _, command in ipairs { 'run', 'replay', 'bench', 'trace', 'policy', 'doctor' } do
        assert.matches('\n   ' .. command .. ' +%u', out)
      end
    end
    assert.matches('^neap %d', (expect(0, '--version')))
  end)

  it('has examples in the help of every command', function()
    local out = expect(0, '--help')
    for command in out:gmatch '\n   (%l+) +%u' do
      assert.matches('\nExamples:\n  neap ' .. command, (expect(0, command .. ' --help')))
    end
  end)

  it('refuses unknown commands and options with a hint, on one line', function()
    for arguments, pattern in pairs {
      rum = "unknown command 'rum' %(did you mean 'run'%?%)",
      ['--versoin'] = "unknown option '%-%-versoin' %(did you mean '%-%-version'%?%)",
      ['trace inf x'] = "unknown command 'inf' %(did you mean 'info'%?%)",
      ['doctor --jsn'] = "unknown option '%-%-jsn' %(did you mean '%-%-json'%?%)",
      ['bench moee'] = "unknown bench 'moee'",
      run = "missing argument 'recipe'",
      ['trace'] = 'a command is required',
    } do
      local out, err = expect(2, arguments, '^neap: ' .. pattern)
      assert.are.equal('', out)
      assert.are.equal(1, lines(err), err)
    end
  end)

  it('runs a Lua file', function()
    local path = os.tmpname()
    local file = io.open(path, 'w')
    file:write "local lib = require 'neap.base.lib' print(lib.version, ...) return 7"
    file:close()
    local out = expect(7, ("lua '%s' a 'b c'"):format(path))
    assert.matches('\ta\tb c\n$', out)
    os.remove(path)
    expect(2, 'lua', 'usage: neap lua FILE')
  end)
end)

describe('neap run', function()
  it('gives the defaults of the recipe', function()
    local out, err = expect(0, 'run ' .. PROBE, 'probe 5/5  working')
    assert.are.equal('ranks=3 node_size=2 nodes=0,0,1 strict=nil steps=5 rate=0.5 kind=plain '
      .. 'keep_all=false sizes=1;2\n', out)
    assert.is_nil(err:find('\r', 1, true))
  end)

  it('takes options and parameters in every form', function()
    assert.are.equal('ranks=5 node_size=5 nodes=0,0,0,0,0 strict=true steps=7 rate=-1e-3 '
      .. 'kind=fancy keep_all=true sizes=4;5;6\n',
      (expect(0, 'run --strict -n 5 --node-size 8 ' .. PROBE
        .. '--steps 7 --rate=-1e-3 --kind=fancy --keep-all --sizes 4,5,6'):gsub('-0.001', '-1e-3')))
    assert.matches('steps=9 .* keep_all=true', (expect(0, 'run --steps=9 ' .. PROBE
      .. '--keep_all=true')))
    assert.matches('keep_all=false', (expect(0, 'run ' .. PROBE .. '--keep-all --no-keep-all')))
  end)

  it('tells the parameters with defaults', function()
    local out = expect(0, 'run ' .. PROBE .. '--help')
    assert.matches('Tells what it was given', out)
    assert.matches('%-%-steps <number>%s+steps to take %(default: 5%)', out)
    assert.matches('%-%-kind <string>%s+a choice: plain, fancy %(default: plain%)', out)
    assert.matches('%-%-keep%-all%s+a flag %(default: false%)', out)
    assert.matches('%-%-sizes <list>%s+a list %(default: 1,2%)', out)
  end)

  it('refuses wrong parameters with status 2, on one line', function()
    for arguments, pattern in pairs {
      ['--stpes=3'] = "unknown option '%-%-stpes' %(did you mean '%-%-steps'%?%)",
      ['--steps=x'] = "%-%-steps is 'x'; it must be a number",
      ['--steps=nan'] = "%-%-steps is 'nan'; it must be a number",
      ['--steps=1.5'] = '%-%-steps is 1.5; it must be a whole number',
      ['--steps=0'] = '%-%-steps is 0; allowed: 1 to 100',
      ['--kind=fnacy'] = "%-%-kind is 'fnacy'; allowed: plain, fancy %(did you mean 'fancy'%?%)",
      ['--keep-all=maybe'] = "option '%-%-keep%-all' does not take arguments",
      ['--sizes=1,x'] = "%-%-sizes is 'x'",
      ['--steps'] = "option '%-%-steps' requires an argument",
      ['-n 0'] = "%-n is '0'; it must be a whole number from 1 to",
      ['-n 2.5'] = "%-n is '2.5'",
      ['--node-size=x'] = "%-%-node%-size is 'x'",
      ['--device=cuad'] = "argument for option '%-%-device' must be one of 'cpu'",
      ['extra'] = 'too many arguments',
    } do
      local out, err = expect(2, 'run ' .. PROBE .. arguments, '^neap: ' .. pattern)
      assert.are.equal('', out)
      assert.are.equal(1, lines(err), err)
    end
  end)

  it('takes an option once, and values that mean something', function()
    local quick = 'run experiments/quickstart.lua --trace= '
    for arguments, pattern in pairs {
      ['run ' .. PROBE .. '--steps=2 --steps 3'] = "option '%-%-steps' is given twice",
      ['run ' .. PROBE .. '-n 2 --ranks 3'] = "is given twice",
      ['run ' .. PROBE .. '--sizes='] = '%-%-sizes is empty; it must have one value or more',
      [quick .. '--policies='] = '%-%-policies is empty',
      [quick .. '--policies=laer:window=3,window=4'] = 'window is given twice',
      [quick .. '--schedule=laer:chunks=2,chunks=3'] = "chunks is given twice",
      [quick .. '--schedule=laer:chunks=1e9'] = 'chunks is 1000000000; .* from 1 to 1024',
      [quick .. '--top-k=17'] = '%-%-top%-k is 17; there are 16 experts',
      [quick .. '--batch=0'] = '%-%-batch is 0; allowed: at least 1',
      [quick .. '--heads=3'] = '%-%-heads is 3 and %-%-hidden 128',
      [quick .. '--kv-heads=3'] = '%-%-kv%-heads is 3; it must divide the 4 heads',
      [quick .. '--dense-layers=3'] = '%-%-dense%-layers is 3: of 3 layers, one must have experts; '
        .. 'allowed are 0 to 2',
      [quick .. '--dense-ffn=3'] = 'there are no layers without experts %(%-%-dense%-layers=1%)',
      [quick .. '--ffn=8,16'] = '%-%-ffn has 2 sizes; .* the 16 experts',
      [quick .. '--slots=1'] = '%-%-slots is 1: 1 slots on each of 8 ranks do not hold 16 experts',
      [quick .. '--shard-group=9'] = "%-%-shard%-group is '9'; .* from 1 to 8",
      [quick .. '--aux-loss=1e30'] = '%-%-aux%-loss is 1e30; allowed: 0 to 1000000',
      ['compare --store /nowhere/x 9..1'] = 'no such run store',
    } do
      local _, err = expect(2, arguments, pattern)
      assert.are.equal(1, lines(err), err)
    end
  end)

  it('takes policies by one name or the other, and either spelling', function()
    local trace = ' --no-store --trace experiments/traces/e8k2.safetensors --window 22 --json '
    local function policies_of(arguments)
      local list = {}
      for i, row in ipairs(json.decode((expect(0, arguments))).rows) do list[i] = row.policy end
      return table.concat(list, ' ')
    end
    assert.are.equal('static laer:window=3 hot',
      policies_of('replay --policies static,laer:window=3 --policy hot' .. trace))
    assert.are.equal('static laer', policies_of('simulate --policies=static,laer --cluster a100x8 '
      .. '-n 8 --node_size 4 --layers 1 --steps 1 --no-store --json'))
    local quick = 'run experiments/quickstart.lua --layers=1 --hidden=16 --heads=2 --kv-heads=2 '
      .. '--ffn=16 --experts=4 --batch=4 --sequence=16 --text=english --trace= -n 2 --steps=1 '
      .. '--json '
    assert.are.equal('static laer:window=3 hot',
      policies_of(quick .. '--policy static --policies=laer:window=3,hot'))
  end)

  it('calls options the same in all commands', function()
    for _, command in ipairs { 'run', 'calibrate', 'simulate', 'trace synth' } do
      local out = expect(0, command .. ' --help')
      assert.matches('%-n ', out, command)
      assert.matches('%-%-node%-size', out, command)
    end
    for _, command in ipairs { 'run', 'replay', 'simulate', 'try', 'report' } do
      assert.matches('%-%-deadline.-%(default:%s+10%)', (expect(0, command .. ' --help')), command)
    end
    for _, command in ipairs { 'replay', 'simulate', 'report', 'suite' } do
      assert.matches('%-%-policies', (expect(0, command .. ' --help')), command)
    end
    for _, command in ipairs { 'sweep', 'compare', 'runs', 'report' } do
      assert.matches('%-%-sweep', (expect(0, command .. ' --help')), command)
      assert.matches('%-%-name', (expect(0, command .. ' --help')), command)
    end
    for _, command in ipairs { 'compare', 'report', 'calibrate', 'trace plot', 'try' } do
      assert.matches('%-o', (expect(0, command .. ' --help')), command)
    end
    local path = os.tmpname()
    expect(0, 'trace plot experiments/traces/e8k2.safetensors --out=' .. path,
      'note: %-%-out is called %-%-output now')
    os.remove(path)
  end)

  it('refuses what is no recipe', function()
    expect(2, 'run nothing.lua', '^neap: nothing.lua: no such recipe')
    local path = os.tmpname()
    local function write(text)
      local file = io.open(path, 'w')
      file:write(text)
      file:close()
    end
    write 'return {}'
    expect(2, 'run ' .. path, 'is no recipe: it must return recipe.define')
    write 'return !'
    local _, err = expect(1, 'run ' .. path, path:gsub('%p', '%%%0') .. ':1: ')
    assert.are.equal(1, lines(err))
    write "return require('neap.train.recipe').define { name = 'x', rnu = 1 }"
    expect(1, 'run ' .. path, "unknown field 'rnu' %(did you mean 'run'%?%)")
    os.remove(path)
  end)

  it('maps a failure to one line and its status, naming the rank', function()
    for code, status in pairs { FORMAT = 5, POLICY = 3, COMM = 1, ARGUMENT = 1 } do
      local _, err = expect(status, ('run %s --fail-rank=1 --fail-how=%s'):format(PROBE, code))
      assert.matches('neap: rank 1: [^\n]*told to fail\n', err)
      assert.are.equal(1, select(2, err:gsub('neap: ', '')), err)
    end
  end)

  it('shows a traceback for a bug', function()
    local _, err = expect(1, 'run ' .. PROBE .. '--fail-rank=2')
    assert.matches('neap: rank 2: [^\n]*probe.lua:%d+: this is a bug\nstack traceback:', err)
  end)
end)

describe('neap run under mpirun', function()
  it('takes the processes as ranks, and rank 0 speaks', function()
    local status, out = program.mpirun(2, 'run ' .. PROBE .. '-n 2')
    assert.are.equal(0, status)
    assert.are.equal(1, lines(out), out)
    assert.matches('^ranks=2 node_size=2 nodes=0,0', out)
  end)

  it('refuses another -n', function()
    local status, _, err = program.mpirun(2, 'run ' .. PROBE .. '-n 4')
    assert.are.equal(2, status, err)
    assert.are.equal(1, select(2, err:gsub('neap: %-n 4, but mpirun started 2', '')), err)
  end)

  it('ends the job when a rank fails, with its status', function()
    local status, _, err = program.mpirun(3, 'run ' .. PROBE .. '--fail-rank=1 --fail-how=FORMAT')
    assert.are.equal(5, status, err)
    assert.are.equal(1, select(2, err:gsub('neap: rank 1: told to fail', '')), err)
  end)
end)

describe('neap, interrupted', function()
  it('ends with status 130', function()
    local status, _, err = program.shell(([[
      set -m; '%s' lua /dev/stdin <<'LUA' &
      while true do require('neap.launcher').sleep(0.01) end
LUA
      sleep 0.5; kill -INT $!; wait $!]]):format(program.path))
    assert.are.equal(130, status, err)
    assert.matches('neap: interrupted', err)
  end)
end)

describe('neap trace', function()
  local csv, packed

  before_each(function()
    csv = os.tmpname()
    packed = csv .. '.safetensors'
    local file = io.open(csv, 'w')
    file:write 'step,layer,rank,e0,e1\n0,0,0,3,1\n0,0,1,3,1\n1,0,0,2,2\n1,0,1,2,2\n'
    file:close()
  end)
  after_each(function()
    os.remove(csv)
    os.remove(packed)
  end)

  it('converts and tells', function()
    expect(0, ('trace convert %s %s'):format(csv, packed))
    local out = expect(0, 'trace info ' .. packed)
    assert.matches('2 steps, 1 layers, 2 ranks, 2 experts', out)
    assert.matches('\n    0%s+16%s+1.250\n', out)
    local about = json.decode((expect(0, 'trace info --json ' .. packed)))
    assert.are.same({ 2, 2, 2 }, { about.steps, about.ranks, about.experts })
    assert.are.equal(csv:match '[^/]*$', about.metadata.source)
  end)

  it('names what is corrupt, with status 5', function()
    expect(0, ('trace convert %s %s'):format(csv, packed))
    local file = io.open(packed, 'r+b')
    file:seek('end', -1)
    file:write 'x'
    file:close()
    local out, err = expect(5, 'trace info ' .. packed, 'checksum', (packed:gsub('%p', '%%%0')))
    assert.are.equal('', out)
    assert.are.equal(1, lines(err))
    file = io.open(csv, 'a')
    file:write '1,0,0,x,2\n'
    file:close()
    expect(5, 'trace info ' .. csv, "line 6, column 4: 'x'")
    expect(1, 'trace info /nonexistent', 'cannot be opened: No such file')
  end)
end)

describe('neap doctor', function()
  it('tells what there is', function()
    local out = expect(0, 'doctor')
    for _, name in ipairs { 'neap', 'processor', 'blas', 'mpi', 'text english', 'text russian' } do
      assert.matches('\n' .. name .. ' +%S', '\n' .. out)
    end
    for _, row in ipairs(json.decode((expect(0, 'doctor --json'))).rows) do
      if row.fact == 'blas' then out = row.value end
    end
    assert.matches('OpenBLAS', out)
  end)

  it('says how to install a missing text', function()
    local status, out = program.shell(("NEAP_TEXT_ROOT=/nonexistent '%s' doctor"):format(
      program.path))
    assert.are.equal(0, status)
    assert.matches('apt%-get install dict%-gcide', out)
  end)
end)

describe('neap policy', function()
  it('lists names, splits and parameters', function()
    local out = expect(0, 'policy list')
    assert.matches('\nlaer +lite +[^\n]*window=5', out)
    local list = json.decode((expect(0, 'policy list --json'))).rows
    for _, item in ipairs(list) do
      if item.policy == 'laer' then
        assert.are.same({ 'lite', '5' }, { item.split, item.params.window })
      end
    end
  end)
end)

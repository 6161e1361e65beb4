-- SPDX-License-Identifier: Apache-2.0

--- neap trace: what goes in comes out, cut, merged, converted and made.

local ffi = require 'ffi'
local json = require 'neap.base.json'
local program = require 'tests.cli.program'
local trace = require 'neap.engine.trace'

describe('neap trace', function()
  local folder, made

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
    made = folder .. '/made.safetensors'
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  --- Runs neap trace in the folder.
  local function run(status, arguments)
    local got, out, err = program.shell(("cd '%s' && '%s' trace %s"):format(folder, program.path,
      arguments))
    assert.are.equal(status, got, arguments .. '\n' .. out .. err)
    return out, err
  end

  local SYNTH = 'synth made.safetensors --ranks 4 --steps 6 --layers 3 --tokens 100 --slots 5 '
    .. '--node-size 2 --seed 9 '

  local function each(t, f)
    for step = 0, t.steps - 1 do
      for layer = 0, t.layers - 1 do f(step, layer, t:load(step, layer)) end
    end
  end

  local function assert_equal_loads(a, b, cells)
    for i = 0, cells - 1 do assert.are.equal(tonumber(a[i]), tonumber(b[i])) end
  end

  before_each(function() run(0, SYNTH) end)

  it('makes loads from a seed: every rank its tokens, no expert more than one per token', function()
    local t = trace.open(made)
    assert.are.same({ 6, 3, 4, 16 }, { t.steps, t.layers, t.ranks, t.experts })
    assert.are.same({ '9', '5', '2', 'e16k4' }, { t.metadata.seed, t.metadata.slots,
      t.metadata.node_size, t.metadata.preset })
    each(t, function(_, _, load)
      for rank = 0, 3 do
        local sum = 0
        for e = 0, 15 do
          local count = tonumber(load[rank * 16 + e])
          assert.is_true(count >= 0 and count <= 100)
          sum = sum + count
        end
        assert.are.equal(400, sum)
      end
    end)
    run(0, (SYNTH:gsub('made', 'again')))
    assert.are.equal(0, (program.shell(("cmp '%s' '%s/again.safetensors'"):format(made, folder))))
    run(0, (SYNTH:gsub('made', 'other')) .. '--rho 0')
    assert.are.equal(1, (program.shell(("cmp -s '%s' '%s/other.safetensors'"):format(made,
      folder))))
  end)

  it('exports CSV, plain and gzipped, and imports it again', function()
    for _, name in ipairs { 'x.csv', 'x.csv.gz' } do
      run(0, 'export made.safetensors ' .. name)
      run(0, ('import %s back.safetensors --slots 5'):format(name))
      local a, b = trace.open(made), trace.open(folder .. '/back.safetensors')
      assert.are.equal('5', b.metadata.slots)
      each(a, function(step, layer, load) assert_equal_loads(load, b:load(step, layer), 64) end)
    end
    assert.matches('^step,layer,rank,e0', (run(0, 'export made.safetensors -')))
  end)

  it('writes the same whether the file is said last or with -o', function()
    local function same(words)
      local command = "cd '%s' && cmp last.safetensors with.safetensors"
      assert.are.equal(0, (program.shell(command:format(folder))), words)
    end
    for _, words in ipairs { 'export made.safetensors %s', 'import made.safetensors %s',
      'cut made.safetensors %s --steps 1..2', 'layout made.safetensors %s',
      (SYNTH:gsub('made.safetensors', '%%s')) } do
      run(0, words:format 'last.safetensors')
      run(0, words:format '-o with.safetensors')
      same(words)
    end
    run(0, 'merge last.safetensors made.safetensors made.safetensors')
    run(0, 'merge -o with.safetensors made.safetensors made.safetensors')
    same 'merge'
    for _, words in ipairs { 'export made.safetensors', 'cut made.safetensors', 'synth',
      'import made.safetensors', 'cut made.safetensors a -o b' } do
      assert.matches('neap: t', select(2, run(2, words)))
    end
  end)

  it('cuts steps and layers, and merges what was cut', function()
    run(0, 'cut made.safetensors a.safetensors --steps 0..1')
    run(0, 'cut made.safetensors b.safetensors --steps 2..5')
    run(0, 'merge back.safetensors a.safetensors b.safetensors')
    local a, b = trace.open(made), trace.open(folder .. '/back.safetensors')
    assert.are.same({ 6, 3 }, { b.steps, b.layers })
    assert.are.equal('steps 2..5, layers 0,1,2',
      trace.open(folder .. '/b.safetensors').metadata.cut)
    each(a, function(step, layer, load) assert_equal_loads(load, b:load(step, layer), 64) end)
    run(0, 'cut made.safetensors l.safetensors --layers 2,0')
    run(0, 'merge wide.safetensors l.safetensors made.safetensors --along layers')
    b = trace.open(folder .. '/wide.safetensors')
    assert.are.same({ 6, 5 }, { b.steps, b.layers })
    assert_equal_loads(a:load(4, 2), b:load(4, 0), 64)
    assert_equal_loads(a:load(4, 1), b:load(4, 3), 64)
  end)

  it('plots characters and SVG', function()
    local out = run(0, 'plot made.safetensors --layer 1')
    assert.are.equal(17, select(2, out:gsub('\n', '')))
    assert.matches('\n  15 |......|\n', out)
    run(0, 'plot made.safetensors --out p.svg')
    local file = io.open(folder .. '/p.svg')
    assert.matches('^<svg.*load / mean.*</svg>\n$', file:read '*a')
    file:close()
  end)

  it('makes the workloads of the benchmark, and a given max / mean', function()
    run(0, 'synth made.safetensors --workload W5 --ranks 2 --steps 3 --layers 1 --tokens 64 '
      .. '--experts 8 --top-k 2')
    local t = trace.open(made)
    assert.are.same({ 3, 1, 2, 8, 'W5', '2' }, { t.steps, t.layers, t.ranks, t.experts,
      t.metadata.workload, t.metadata.top_k })
    each(t, function(_, _, load)
      for rank = 0, 1 do
        for e = 0, 3 do assert.are.equal(0, tonumber(load[rank * 8 + e])) end
      end
    end)
    run(0, 'synth made.safetensors --maxvio 3 --experts 32 --ranks 4 --steps 8 --layers 2')
    local sum, n, made_of = 0, 0, trace.open(made)
    each(made_of, function(_, _, load)
      local by_expert, most, total = {}, 0, 0
      for i = 0, 4 * 32 - 1 do
        by_expert[i % 32] = (by_expert[i % 32] or 0) + tonumber(load[i])
      end
      for e = 0, 31 do most, total = math.max(most, by_expert[e]), total + by_expert[e] end
      sum, n = sum + most * 32 / total, n + 1
    end)
    assert.is_true(math.abs(sum / n - 3) < 0.01, 'max / mean is ' .. sum / n)
  end)

  local function read(name)
    local file = assert(io.open(folder .. '/' .. name, 'rb'))
    local text = file:read '*a'
    file:close()
    return text
  end

  it("writes a policy's layouts as SGLang and EPLB take them", function()
    run(0, 'layout made.safetensors l.json --policy eplb --slots 5')
    run(0, 'layout made.safetensors l.safetensors --policy eplb --slots 5')
    local maps = json.decode(read 'l.json').physical_to_logical_map
    assert.are.equal(3, #maps)
    local text = read 'l.safetensors'
    local header = ffi.cast('const uint64_t *', ffi.cast('const char *', text))[0]
    local about, at = json.decode(text:sub(9, 8 + tonumber(header))), 8 + tonumber(header)
    local function tensor(name)
      return ffi.cast('const int64_t *', ffi.cast('const char *', text) + at
        + about[name].data_offsets[1])
    end
    local phy2log, log2phy, logcnt = tensor 'phy2log', tensor 'log2phy', tensor 'logcnt'
    local most = about.log2phy.shape[3]
    assert.are.same({ { 3, 20 }, { 3, 16, most }, { 3, 16 } },
      { about.phy2log.shape, about.log2phy.shape, about.logcnt.shape })
    for layer = 0, 2 do
      local seen = {}
      for slot = 0, 19 do
        local expert = maps[layer + 1][slot + 1]
        assert.are.equal(expert, tonumber(phy2log[20 * layer + slot]))
        local nth = seen[expert] or 0
        assert.are.equal(slot, tonumber(log2phy[(16 * layer + expert) * most + nth]))
        seen[expert] = nth + 1
      end
      for expert = 0, 15 do
        assert.are.equal(seen[expert], tonumber(logcnt[16 * layer + expert]))
        for nth = seen[expert], most - 1 do
          assert.are.equal(-1, tonumber(log2phy[(16 * layer + expert) * most + nth]))
        end
      end
    end
  end)

  it('plans those layouts on the last steps of the trace', function()
    run(0, 'synth one.safetensors --ranks 4 --steps 1 --layers 1 --tokens 100 --seed 9 --slots 5 '
      .. '--node-size 2')
    run(0, 'layout one.safetensors l.json --policy eplb')
    local t = trace.open(folder .. '/one.safetensors')
    local topology = require('neap.engine.topology').open { ranks = 4, node_size = 2,
      experts = 16, slots = 5 }
    local layout = require('neap.engine.plan').open('eplb', topology):plan(t:load(0, 0))
    local wanted = {}
    for slot = 0, 19 do wanted[slot + 1] = layout:array()[slot] end
    assert.are.same({ wanted }, json.decode(read 'l.json').physical_to_logical_map)
    run(2, 'layout one.safetensors l.txt')
    run(2, 'layout one.safetensors l.json --policy nobody')
  end)

  it('refuses what does not fit', function()
    run(0, (SYNTH:gsub('made', 'six'):gsub('ranks 4', 'ranks 6')))
    for arguments, pattern in pairs {
      ['cut made.safetensors x.safetensors --steps 4..9'] = '%-%-steps ends with 9',
      ['cut made.safetensors x.safetensors --steps 4'] = false,
      ['cut made.safetensors x.safetensors --layers 3'] = 'has layers 0 to 2',
      ['cut made.safetensors x.safetensors --steps 5..4'] = 'the form is',
      ['plot made.safetensors --layer 3'] = 'has layers 0 to 2',
      ['merge x.safetensors made.safetensors six.safetensors'] = 'has 4 ranks, .* has 6',
      ['merge made.safetensors made.safetensors'] = 'read and written at once',
      ['synth x.safetensors --top-k 99'] = 'top_k is 99',
      ['synth x.safetensors --preset e16'] = 'e16k4',
      ['synth x.safetensors --workload W8'] = 'W7',
      ['synth x.safetensors --workload W1 --rho 1'] = 'workload and %-%-rho exclude',
      ['synth x.safetensors --maxvio 3 --sigma 1'] = 'maxvio and %-%-sigma exclude',
      ['synth x.safetensors --maxvio 5'] = 'cannot be reached',
      ['mrege'] = "did you mean 'merge'",
    } do
      local _, err = run(pattern and 2 or 0, arguments)
      assert.matches(pattern or '', err)
    end
  end)
end)

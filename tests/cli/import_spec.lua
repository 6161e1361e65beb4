-- SPDX-License-Identifier: Apache-2.0

--- neap trace import: what other systems record, against a reference that counts by itself.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'
local trace = require 'neap.engine.trace'

-- Debian's Python, for which its packages are, or another one with torch and pyarrow.
local PYTHON = os.getenv 'NEAP_PYTHON' or '/usr/bin/python3'
local has_numpy = program.shell(("'%s' -c 'import numpy'"):format(PYTHON)) == 0
local check = has_numpy and it or pending

describe('neap trace import', function()
  local folder, expected

  local function write(path, text)
    local file = assert(io.open(folder .. '/' .. path, 'wb'))
    file:write(text)
    file:close()
  end

  local function read(path)
    local file = assert(io.open(folder .. '/' .. path, 'rb'))
    local text = file:read '*a'
    file:close()
    return text
  end

  --- Imports; returns what it says on stderr.
  local function import(status, arguments)
    local got, out, err = program.shell(("cd '%s' && NEAP_PYTHON='%s' '%s' trace import %s"):format(
      folder, PYTHON, program.path, arguments))
    assert.are.equal(status, got, arguments .. '\n' .. out .. err)
    return err
  end

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
    if not has_numpy then return end
    local command = ("'%s' '%s/tests/cli/make_traces.py' '%s' %s"):format(PYTHON, launcher.home,
      folder, os.getenv 'NEAP_LONG' and 'torch pyarrow' or '')
    local status, _, err = program.shell(command)
    assert.are.equal(0, status, err)
    expected = json.decode(read 'expected.json')
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  local function loads_of(t)
    local list = {}
    for step = 0, t.steps - 1 do
      for layer = 0, t.layers - 1 do
        local load = t:load(step, layer)
        for i = 0, t.ranks * t.experts - 1 do list[#list + 1] = tonumber(load[i]) end
      end
    end
    return list
  end

  check('reads every format as it is meant', function()
    local count = 0
    for name, entry in pairs(expected.files) do
      import(0, ('%s out.safetensors %s'):format(name, entry[1]))
      local t = trace.open(folder .. '/out.safetensors')
      assert.are.same(entry[2], { t.steps, t.layers, t.ranks, t.experts }, name)
      assert.are.same(entry[3], loads_of(t), name)
      assert.are.equal(entry[1]:find '%-%-ranks' and 'dealt' or 'recorded',
        t.metadata.source_ranks, name)
      assert.are.equal(name, t.metadata.source)
      count = count + 1
    end
    assert.is_true(count >= 14)
    for _, module in ipairs(expected.lacks) do
      io.stderr:write(('neap trace import: formats of %s are not tested: %s\n'):format(module,
        os.getenv 'NEAP_LONG' and PYTHON .. ' has none' or 'only with --long'))
    end
  end)

  check('draws ranks from a seed, and keeps every token', function()
    local totals, most = {}, 0
    for i, seed in ipairs { 1, 1, 2 } do
      import(0, ('counts.npy d%d.safetensors --format counts --ranks 4 --draw --seed %d'):format(i,
        seed))
      local t = trace.open(('%s/d%d.safetensors'):format(folder, i))
      assert.are.same({ 'drawn', tostring(seed) },
        { t.metadata.source_ranks, t.metadata.draw_seed })
      local wanted, load = expected.files['counts.npy'][3], loads_of(t)
      for at = 0, #load / 24 - 1 do
        for e = 1, 6 do
          local sum, reference = 0, 0
          for rank = 0, 3 do
            local value = load[24 * at + 6 * rank + e]
            sum, reference = sum + value, reference + wanted[24 * at + 6 * rank + e]
            totals[i] = (totals[i] or '') .. ' ' .. value
          end
          assert.are.equal(reference, sum)
          local sigma = math.sqrt(sum * 3 / 16)
          for rank = 0, 3 do
            most = math.max(most, math.abs(load[24 * at + 6 * rank + e] - sum / 4) / sigma)
          end
        end
      end
    end
    assert.is_true(most > 1 and most < 5, most)
    assert.are.equal(totals[1], totals[2])
    assert.are_not.equal(totals[1], totals[3])
  end)

  check('says what is wrong, where', function()
    write('cut.npy', read('routed.npy'):sub(1, -9))
    write('long.npy', read 'routed.npy' .. 'x')
    write('head.npy', (read('routed.npy'):gsub("'descr'", "'desc2'")))
    write('objects.npy', (read('routed.npy'):gsub('<i2', '|O8')))
    write('columns.npy', (read('routed.npy'):gsub('False', 'True ')))
    local lines = read 'router/router_trace_rank0.jsonl'
    program.shell(("mkdir '%s/cut' '%s/odd' '%s/none'"):format(folder, folder, folder))
    write('cut/router_trace_rank0.jsonl', lines:sub(1, -20))
    write('odd/router_trace_rank0.jsonl', (lines:gsub('"num_tokens": 5', '"num_tokens": 6', 1)))
    write('none/a.txt', 'text')
    write('ragged.json', '[[1,2],[3]]')
    write('broken.json', '[[1,2],[3,')
    write('minus.json', '[[1,-2]]')
    write('bad.csv', 'layer_id,expert_id,count\n0,1\n')
    write('own.csv', 'step,layer,rank,e0\n0,0,0,1\n')
    for arguments, pattern in pairs {
      ['cut.npy x --ranks 2'] = { 5, '%(43, 3, 2%) of 2 bytes each has 516 bytes; here are 508' },
      ['long.npy x --ranks 2'] = { 5, 'has 516 bytes; here are 517: it is truncated or damaged' },
      ['head.npy x --ranks 2'] = { 5, 'byte 10: the header is damaged' },
      ['objects.npy x --ranks 2'] = { 5, "its elements are '|O8'" },
      ['columns.npy x --ranks 2'] = { 5, 'ascontiguousarray' },
      ['routed.npy x'] = { 2, 'has no ranks: %-%-ranks=N' },
      ['routed.npy x --ranks 2 --experts 8'] = { 5, 'expert 8; there are 0 to 7 %(%-%-experts%)' },
      ['routed.npy x --draw'] = { 2, '%-%-draw goes with %-%-ranks' },
      ['i8.npy x --ranks 2'] = { 2, 'tells which ranks' },
      ['i8.npy x --format counts --ranks 2'] = { 5, 'which is none of counts' },
      ['cut x'] = { 5, 'rank0.jsonl: line 12: it is truncated' },
      ['odd x'] = { 5, 'line 1: "top_indices" has 10 numbers; num_tokens x topk are 12' },
      ['none x'] = { 2, 'no file in it is of a known format' },
      ['ragged.json x --ranks 2'] = { 5, 'list 2 of a level has another shape' },
      ['broken.json x --ranks 2'] = { 5, 'broken.json: character' },
      ['minus.json x --ranks 2'] = { 5, 'a load is %-2' },
      ['bad.csv x --ranks 2'] = { 5, "bad.csv: line 2: '0,1'" },
      ['own.csv x --ranks 2'] = { 2, 'has its ranks' },
      ['nothing.npy x'] = { 2, 'nothing.npy: No such file' },
    } do
      assert.matches(pattern[2], import(pattern[1], arguments), arguments)
    end
  end)

  check('takes files by name, too, of one format', function()
    import(0, 'router/*.jsonl x.safetensors --experts 8')
    local t = trace.open(folder .. '/x.safetensors')
    assert.are.same(expected.files.router[3], loads_of(t))
    assert.are.equal('router_trace_rank0.jsonl,router_trace_rank1.jsonl', t.metadata.source)
    write('own2.csv', 'step,layer,rank,e0\n0,0,0,1\n')
    assert.matches('is a trace already', import(2, 'own2.csv own2.csv x.safetensors'))
    assert.matches('eplb is one file, not 2', import(2, 'eplb.json eplb.json x.safetensors'))
    assert.matches('No such file', import(2, 'router/router_trace_rank0.jsonl gone.jsonl x'))
  end)

  check('leaves out a last step that was broken off, and tells', function()
    local lines = read 'router/router_trace_rank0.jsonl'
    program.shell(("mkdir '%s/short'"):format(folder))
    write('short/router_trace_rank0.jsonl', lines:gsub('[^\n]*\n$', ''))
    assert.matches('step 2 lacks layers and is left out', import(0, 'short x.safetensors'))
    assert.are.equal(2, trace.open(folder .. '/x.safetensors').steps)
  end)

  check('names the Python that lacks a module', function()
    write('zip.pt', 'PK\3\4')
    local bare = folder .. '/bare'
    write('bare', "#!/bin/sh\nexec '" .. PYTHON .. "' -S \"$@\"\n") -- without site-packages
    program.shell(("chmod +x '%s'"):format(bare))
    local got, _, err = program.shell(("NEAP_PYTHON='%s' '%s' trace import '%s/zip.pt' x --ranks 2")
      :format(bare, program.path, folder))
    assert.are.equal(1, got)
    assert.matches("bare: .*No module named 'numpy'; neap trace import needs numpy there", err)
  end)
end)

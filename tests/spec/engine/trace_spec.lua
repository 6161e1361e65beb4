-- SPDX-License-Identifier: Apache-2.0

local json = require 'dkjson'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local trace = require 'neap.engine.trace'

local ffi = lib.ffi

local function write(path, text)
  local file = assert(io.open(path, 'wb'))
  file:write(text)
  file:close()
end

local function read(path)
  local file = assert(io.open(path, 'rb'))
  local text = file:read '*a'
  file:close()
  return text
end

--- Value of (step, layer, i) in the traces of this spec.
local function value(step, layer, i)
  return tonumber(lib.C.neap_random_bits(7, step * 100 + layer, i) % 50000)
end

local function load_of(step, layer, count)
  local load = ffi.new('int64_t[?]', count)
  for i = 0, count - 1 do load[i] = value(step, layer, i) end
  return load
end

local SHAPE = { layers = 2, ranks = 3, experts = 5,
  metadata = { seed = 42, model = 'tiny "é"\n', policy = 'laer' } }

local function write_trace(path, steps)
  local w = trace.writer(path, SHAPE)
  for step = 0, steps - 1 do
    for layer = 0, 1 do w:append(step, layer, load_of(step, layer, 15)) end
  end
  return w
end

local function same_content(t, steps)
  if t.steps ~= steps or t.layers ~= 2 or t.ranks ~= 3 or t.experts ~= 5 then return false end
  for step = 0, steps - 1 do
    for layer = 0, 1 do
      local load = t:load(step, layer)
      for i = 0, 14 do
        if load[i] ~= value(step, layer, i) then return false end
      end
    end
  end
  local m = t.metadata
  return m.seed == '42' and m.model == 'tiny "é"\n' and m.policy == 'laer'
end

--- Expects FORMAT with a message that matches.
local function check_damaged(path, pattern)
  local ok, err = pcall(trace.open, path)
  assert.is_false(ok, path .. ' was read')
  assert.are.equal('FORMAT', err.code, err.message)
  assert.matches(path, err.message, 1, true)
  assert.matches(pattern, err.message)
end

describe('trace', function()
  local path

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  it('reads what it wrote, metadata included', function()
    write_trace(path, 4):close()
    local t = trace.open(path)
    assert.is_true(same_content(t, 4))
    assert.are.same({ 'format', 'version', 'crc32', 'state', 'model', 'policy', 'seed' },
      t.metadata_keys)
    assert.are.equal('written', t.metadata.state)
    assert.is_false(t.incomplete)
    t:close()
  end)

  it('writes safetensors as the format is defined', function()
    write_trace(path, 4):close()
    local text = read(path)
    local length = 0
    for i = 8, 1, -1 do length = length * 256 + text:byte(i) end
    local header = json.decode(text:sub(9, 8 + length))
    assert.are.equal('I32', header.load.dtype)
    assert.are.same({ 4, 2, 3, 5 }, header.load.shape)
    assert.are.same({ 0, 4 * 2 * 3 * 5 * 4 }, header.load.data_offsets)
    assert.are.equal(#text, 8 + length + header.load.data_offsets[2])
    assert.are.equal(0, (8 + length) % 8)
    assert.are.equal('tiny "é"\n', header.__metadata__.model)
    local data = ffi.cast('const int32_t *', ffi.cast('const char *', text) + 8 + length)
    assert.are.equal(value(3, 1, 14), data[119])
  end)

  it('is complete after every step, closed or not', function()
    local w = write_trace(path, 2)
    assert.is_true(same_content(trace.open(path), 2))
    w:append(2, 0, load_of(2, 0, 15))
    assert.is_true(same_content(trace.open(path), 2))
    w:append(2, 1, load_of(2, 1, 15))
    assert.is_true(same_content(trace.open(path), 3))
    w:close()
    assert.is_true(same_content(trace.open(path), 3))
  end)

  it('is read up to its last whole step if its writer was killed', function()
    write_trace(path, 2):append(2, 0, load_of(2, 0, 15))
    collectgarbage()
    collectgarbage() -- closes the writer, which was not finished
    local text = read(path)
    for _, more in ipairs { '', 'x', ('y'):rep(4 * 2 * 15), ('z'):rep(4 * 2 * 15 + 1) } do
      write(path, text .. more)
      local t = trace.open(path)
      assert.is_true(same_content(t, 2))
      assert.is_true(t.incomplete)
      assert.are.equal('writing', t.metadata.state)
    end
    write(path, text:sub(1, -2))
    check_damaged(path, 'truncated')
  end)

  it('is whole at whatever moment its writer is killed', function()
    local script, shipped = os.tmpname(), launcher.folder .. '/neap'
    write(script, [[
      local path = ...
      local load = require('ffi').new('int64_t[6000]', 7)
      local w = require('neap.engine.trace').writer(path, { layers = 1, ranks = 60, experts = 100,
        metadata = { long = ('x'):rep(9000) } })
      for step = 0, math.huge do w:append(step, 0, load) end]])
    local most, slowness = 0, 1
    for i = 1, 12 do
      repeat -- until there was time to begin
        os.remove(path)
        os.execute(("timeout --signal=KILL %.3f '%s' lua %s %s 2>/dev/null"):format(
          slowness * (0.05 + i * 0.017), shipped, script, path))
        local file = io.open(path)
        local begun = file and file:seek 'end' > 0
        if file then file:close() end
        if not begun then slowness = 1.5 * slowness end
      until begun
      local t = trace.open(path)
      for step = math.max(0, t.steps - 3), t.steps - 1 do
        for k = 0, 5999 do assert(t:load(step, 0)[k] == 7) end
      end
      most = math.max(most, t.steps)
      assert.is_true(t.incomplete)
      t:close()
    end
    os.remove(script)
    assert.is_true(most > 0)
  end)

  it('is written by one writer at a time', function()
    local first = write_trace(path, 1)
    local ok, err = pcall(trace.writer, path, SHAPE)
    assert.is_false(ok)
    assert.are.equal('BUSY', err.code)
    assert.matches(path .. ': another run is writing it', err.message, 1, true)
    local second, third = trace.writer(path, SHAPE, 9), trace.writer(path, SHAPE, 9)
    assert.are.same({ path .. '-2', path .. '-3' }, { second.path, third.path })
    second:close()
    third:close()
    first:append(1, 0, load_of(1, 0, 15))
    first:append(1, 1, load_of(1, 1, 15))
    first:close()
    assert.is_true(same_content(trace.open(path), 2))
    os.remove(second.path)
    os.remove(third.path)
    local again = trace.writer(path, SHAPE, 9)
    assert.are.equal(path, again.path)
    again:close()
  end)

  it('stays marked as incomplete if its last step lacks layers', function()
    local w = write_trace(path, 1)
    w:append(1, 0, load_of(1, 0, 15))
    local ok, err = pcall(w.close, w)
    assert.is_false(ok)
    assert.matches('the last step lacks layers', err.message)
    assert.is_true(same_content(trace.open(path), 1))
    assert.is_true(trace.open(path).incomplete)
  end)

  it('has no steps before the first', function()
    trace.writer(path, SHAPE):close()
    assert.are.equal(0, trace.open(path).steps)
  end)

  it('refuses steps out of order and loads out of range', function()
    local w = write_trace(path, 1)
    local load = load_of(1, 0, 15)
    assert.has_error(function() w:append(1, 1, load) end)
    assert.has_error(function() w:append(0, 0, load) end)
    load[7] = -1
    local ok, err = pcall(w.append, w, 1, 0, load)
    assert.is_false(ok)
    assert.matches('step 1, layer 0, rank 1, expert 2: load is %-1', err.message)
    load[7] = 2 ^ 31
    assert.has_error(function() w:append(1, 0, load) end)
    w:close()
    assert.is_true(same_content(trace.open(path), 1))
  end)

  it('refuses metadata of its own and impossible shapes', function()
    for _, shape in ipairs {
      { layers = 1, ranks = 1, experts = 1, metadata = { crc32 = 'x' } },
      { layers = 0, ranks = 1, experts = 1 },
      { layers = 2 ^ 30, ranks = 2 ^ 30, experts = 2 ^ 30 },
    } do
      local ok, err = pcall(trace.writer, path, shape)
      assert.is_false(ok)
      assert.are.equal('ARGUMENT', err.code)
    end
  end)

  it('reports every truncation', function()
    write_trace(path, 3):close()
    local text = read(path)
    for length = 0, #text - 1, 7 do
      write(path, text:sub(1, length))
      check_damaged(path, length == 0 and 'empty' or '')
    end
    write(path, text .. 'x')
    check_damaged(path, ('byte %d: bytes after'):format(#text))
  end)

  it('reports every changed byte that changes the content', function()
    write_trace(path, 3):close()
    local text = read(path)
    for at = 1, #text do
      for _, flip in ipairs { 1, 32, 128 } do
        local byte = string.char(bit.bxor(text:byte(at), flip))
        write(path, text:sub(1, at - 1) .. byte .. text:sub(at + 1))
        local ok, result = pcall(trace.open, path)
        if ok then
          assert.is_true(same_content(result, 3), ('byte %d, flip %d'):format(at - 1, flip))
          result:close()
        else
          assert.are.equal('FORMAT', result.code)
        end
      end
    end
  end)

  local function raw(header, data)
    local length = {}
    for i = 0, 7 do length[i + 1] = string.char(math.floor(#header / 256 ^ i) % 256) end
    write(path, table.concat(length) .. header .. (data or ''))
  end

  it('takes a file without metadata as it is', function()
    raw('{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,8]}}  ',
      '\1\0\0\0\2\1\0\0')
    local t = trace.open(path)
    assert.are.equal(258, tonumber(t:load(0, 0)[1]))
  end)

  it('takes whole numbers of any type, and whatever metadata', function()
    local list = { 0, 1, 258, 30000 }
    for dtype, bytes in pairs { I64 = 8, U32 = 4, I16 = 2, U16 = 2, I32 = 4, U64 = 8 } do
      local data = {}
      for i, number in ipairs(list) do
        for byte = 0, bytes - 1 do
          data[#data + 1] = string.char(math.floor(number / 256 ^ byte) % 256)
        end
        assert(i)
      end
      raw(('{"__metadata__":{"format":"pt","seed":"3"},"load":{"dtype":"%s","shape":[1,1,2,2],'
        .. '"data_offsets":[0,%d]}}'):format(dtype, 4 * bytes), table.concat(data))
      local t = trace.open(path)
      for i, number in ipairs(list) do assert.are.equal(number, tonumber(t:load(0, 0)[i - 1])) end
      assert.are.equal('3', t.metadata.seed)
      t:close()
    end
    for dtype, data in pairs { I64 = ('\255'):rep(8), U64 = '\0\0\0\0\1\0\0\0',
      U32 = '\0\0\0\128', I16 = '\0\128' } do
      local header = ('{"load":{"dtype":"%s","shape":[1,1,1,1],"data_offsets":[0,%d]}}'):format(
        dtype, #data)
      raw(header, data)
      check_damaged(path, ('byte %d: load is %%-?%%d+; it must be from 0'):format(8 + #header))
    end
  end)

  it('refuses hostile headers', function()
    local eight = ('\0'):rep(8)
    for header, pattern in pairs {
      ['{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,4]}}'] = 'do not fit together',
      ['{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[8,0]}}'] = 'ascending',
      ['{"load":{"dtype":"F64","shape":[1,1,1,1],"data_offsets":[0,8]}}'] = 'of whole numbers',
      ['{"load":{"dtype":"I64","shape":[1,1,1,2],"data_offsets":[0,8]}}'] = 'do not fit together',
      ['{"load":{"dtype":"I16","shape":[1,1,1,1],"data_offsets":[0,3]}}'] = 'do not fit together',
      ['{"load":{"dtype":"I32","shape":[1,1,2],"data_offsets":[0,8]}}'] = '4 dimensions',
      ['{"load":{"dtype":"I32","shape":[4294967296,4294967296,4294967296,1],'
        .. '"data_offsets":[0,8]}}'] = 'do not fit together',
      ['{"load":{"dtype":"I32","shape":[99999999999999999999],"data_offsets":[0,8]}}'] =
        'too large',
      ['{"load":{"dtype":"I32","shape":[1,1,1,200],"data_offsets":[0,800]}}'] = 'truncated',
      ['{"load":{"dtype":"I32","shape":[0,1,0,2],"data_offsets":[0,0]}}'] = 'dimension',
      ['{"loaf":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,8]}}'] = 'not a trace',
      ['{"load":{"dtype":"I32","shape":[1,1,1,2]}}'] = 'without dtype',
      ['{"load":{"dtype":"I32","shape":[1,1,1,2],"shape":[1],"data_offsets":[0,8]}}'] = 'twice',
      ['{"load":{"dtype":"I32","shape":[1,1,1,-2],"data_offsets":[0,8]}}'] = 'whole number',
      ['{"__metadata__":{"crc32":"1"},"load":{"dtype":"I32","shape":[1,1,1,2],'
        .. '"data_offsets":[0,8]}}'] = 'without format',
      ['{}'] = 'not a trace',
      ['{"load'] = 'does not end',
      ['{"lo\\u00zzad":{}}'] = 'escape',
      ['{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,8]}} x'] = 'after its end',
    } do
      raw(header, eight)
      check_damaged(path, pattern)
    end
    write(path, ('\255'):rep(8) .. '{}')
    check_damaged(path, 'byte 0: header of')
  end)

  it('reads a header of a megabyte as fast as any other', function()
    local pairs_of, tensors, start = {}, {}, lib.C.neap_clock()
    for i = 1, 90000 do pairs_of[i] = ('"%x":""'):format(i) end
    raw('{"__metadata__":{' .. table.concat(pairs_of, ',') .. '}}')
    check_damaged(path, 'not a trace')
    for i = 1, 16000 do
      tensors[i] = ('"%x":{"dtype":"I8","shape":[],"data_offsets":[0,1]}'):format(i)
    end
    raw('{' .. table.concat(tensors, ',') .. '}')
    check_damaged(path, 'not a trace')
    tensors[#tensors] = tensors[1]
    raw('{' .. table.concat(tensors, ',') .. '}')
    check_damaged(path, "a tensor twice: '1'")
    assert.is_true(lib.C.neap_clock() - start < 5) -- names compared in pairs took half a minute
  end)

  it('names a negative load and its place', function()
    local header = '{"load":{"dtype":"I32","shape":[1,1,1,2],"data_offsets":[0,8]}}'
    raw(header, '\1\0\0\0\255\255\255\255')
    check_damaged(path, ('byte %d: load is %%-1'):format(8 + #header + 4))
  end)

  it('tells a file that is not there from a damaged one', function()
    local ok, err = pcall(trace.open, '/nonexistent/x.safetensors')
    assert.is_false(ok)
    assert.are.equal('SYSTEM', err.code)
    ok, err = pcall(trace.open, '/tmp')
    assert.is_false(ok)
    assert.are.equal('SYSTEM', err.code)
  end)
end)

describe('trace from CSV', function()
  local path

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  local HEAD = 'step,layer,rank,e0,e1\n'

  it('takes rows in any order, plain or gzipped', function()
    local rows = {}
    for step = 0, 3 do
      for layer = 0, 1 do
        for rank = 0, 2 do
          rows[#rows + 1] = ('%d,%d,%d,%d,%d\n'):format(step, layer, rank,
            value(step, layer, 2 * rank), value(step, layer, 2 * rank + 1))
        end
      end
    end
    for i = #rows, 2, -1 do
      local j = 1 + tonumber(lib.C.neap_random_bits(1, 2, i) % i)
      rows[i], rows[j] = rows[j], rows[i]
    end
    write(path, HEAD .. table.concat(rows))
    assert.are.equal(0, os.execute(('gzip -kf %s'):format(path)))
    for _, name in ipairs { path, path .. '.gz' } do
      local t = trace.open(name)
      assert.are.same({ 4, 2, 3, 2 }, { t.steps, t.layers, t.ranks, t.experts })
      for step = 0, 3 do
        for i = 0, 5 do
          assert.are.equal(value(step, 1, i), tonumber(t:load(step, 1)[i]))
        end
      end
    end
    os.remove(path .. '.gz')
  end)

  it('takes what spreadsheets and scripts make of it', function()
    local plain = HEAD .. '0,0,0,90,10\n0,0,1,20,8\n1,0,0,7,6\n1,0,1,5,4\n'
    local rows = { { 0, 0, 0, 90, 10 }, { 0, 0, 1, 20, 8 }, { 1, 0, 0, 7, 6 }, { 1, 0, 1, 5, 4 } }
    local function made(head, format, order, ending)
      local lines = { head }
      for i, row in ipairs(rows) do
        local cells = {}
        for k, from in ipairs(order) do cells[k] = from > 0 and row[from] or i - 1 end
        lines[i + 1] = format:format(unpack(cells))
      end
      return table.concat(lines, ending or '\n') .. (ending or '\n')
    end
    local straight = { 1, 2, 3, 4, 5 }
    for name, text in pairs {
      mark = '\239\187\191' .. plain, crlf = plain:gsub('\n', '\r\n'), cr = plain:gsub('\n', '\r'),
      ['no last line end'] = plain:sub(1, -2), ['blank lines'] = '\n' .. plain .. '\n  \n',
      spaces = plain:gsub(',', ' , '), ['upper case'] = plain:upper(),
      quoted = made('"step","layer","rank","e0","e1"', '"%d","%d",%d,"%d",%d', straight),
      floats = made('step,layer,rank,e0,e1', '%d.0,%d.,%d.00,%.1e,%.1f', straight),
      semicolons = made('step;layer;rank;e0;e1', '%d;%d;%d;%d,0;%d', straight),
      tabs = made('step\tlayer\trank\te0\te1', '%d\t%d\t%d\t%d\t%d', straight),
      columns = made('e1,rank,e0,layer,step', '%d,%d,%d,%d,%d', { 5, 3, 4, 2, 1 }),
      names = made('Step,Layer,Rank,expert_0,Expert01', '%d,%d,%d,%d,%d', straight),
    } do
      write(path, text)
      local t = trace.open(path)
      assert.are.same({ 2, 1, 2, 2 }, { t.steps, t.layers, t.ranks, t.experts }, name)
      for i, row in ipairs(rows) do
        local load = t:load(row[1], 0)
        local at = 2 * ((i - 1) % 2)
        assert.are.same({ row[4], row[5] }, { tonumber(load[at]), tonumber(load[at + 1]) }, name)
      end
      assert.is_nil(t.notes, name)
      t:close()
    end
    write(path, made(',step,layer,rank,e0,e1,time', ('%d,'):rep(6) .. '%d',
      { 0, 1, 2, 3, 4, 5, 0 }))
    assert.are.equal("2 columns are left out: '', …", trace.open(path).notes)
  end)

  it('renumbers ids that leave gaps, and tells', function()
    write(path, 'step,layer,rank,e4,e2\n10,3,7,1,2\n10,3,9,3,4\n30,3,9,7,8\n30,3,7,5,6\n')
    local t = trace.open(path)
    assert.are.same({ 2, 1, 2, 2 }, { t.steps, t.layers, t.ranks, t.experts })
    local load = t:load(1, 0)
    assert.are.same({ 6, 5, 8, 7 }, { tonumber(load[0]), tonumber(load[1]), tonumber(load[2]),
      tonumber(load[3]) })
    assert.are.equal('experts e2 to e4 are renumbered 0 to 1; steps 10 to 30 are renumbered 0 to '
      .. '1; layers 3 to 3 are renumbered 0 to 0; ranks 7 to 9 are renumbered 0 to 1', t.notes)
  end)

  it('unpacks xz and Zstandard, all of their frames, and finds what is cut off', function()
    local text = { HEAD }
    for rank = 0, 999 do text[rank + 2] = ('0,0,%d,%d,2\n'):format(rank, value(0, 0, rank)) end
    write(path, table.concat(text))
    for ending, pack in pairs { xz = 'xz -k', zst = 'zstd -qk' } do
      local packed = path .. '.' .. ending
      if os.execute(('%s %s 2>/dev/null'):format(pack, path)) ~= 0 then
        pending(pack .. ' is not installed')
        return
      end
      local bytes = read(packed)
      local ok, t = pcall(trace.open, packed)
      if not ok and t.message:find 'this build lacks' then return end
      assert.are.equal(1000, t.ranks)
      assert.are.equal(value(0, 0, 999), tonumber(t:load(0, 0)[1998]))
      for _, length in ipairs { 12, math.floor(#bytes / 2), #bytes - 1 } do
        write(packed, bytes:sub(1, length))
        check_damaged(packed, 'truncated or damaged ' .. (ending == 'xz' and 'xz' or 'zstd'))
      end
      local half = math.floor(#bytes / 2)
      write(packed, bytes:sub(1, half) .. ('\170'):rep(20) .. bytes:sub(half + 21))
      check_damaged(packed, 'damaged')
      write(packed, bytes .. 'x')
      check_damaged(packed, 'damaged')
      write(packed, bytes .. bytes) -- twice the text: its heading is no row
      check_damaged(packed, 'line 1002, column 1')
      os.remove(packed)
    end
  end)

  it('names the line of what is wrong', function()
    local cases = {
      { '', 'byte 0: the file is empty' },
      { 'hello\n', 'line 1: neither a safetensors file nor a CSV with the columns step, layer' },
      { '\n\n', 'line 3: neither' },
      { '\255\254s\0', 'line 1: this is UTF%-16' },
      { 'step,layer,e0\n0,0,1\n', 'line 1: there is no column rank' },
      { 'step,layer,rank,x\n0,0,0,1\n', 'line 1: there are no columns e0' },
      { 'step,layer,rank,e0,rank\n', 'line 1: column rank twice' },
      { 'step,layer,rank,e0,e00\n', 'line 1: column e0 twice' },
      { HEAD, 'no row' },
      { HEAD .. '0,0,0,1,2\n0,0,1,1\n', 'line 3: 4 columns; the heading has 5' },
      { HEAD .. '0,0,0,1,2,3\n', 'line 2: more than 5 columns' },
      { HEAD .. '0,0,0,1,-2\n', "line 2, column 5: '%-2'" },
      { HEAD .. '0,0,0,1.5,2\n', "line 2, column 4: '1.5'" },
      { HEAD .. '0,0,0,,2\n', "line 2, column 4: ''" },
      { HEAD .. '0,0,0,nan,2\n', "line 2, column 4: 'nan'" },
      { HEAD .. '0,0,0,0x1,2\n', "line 2, column 4: '0x1'" },
      { HEAD .. '0,0,0,1,2147483648\n', "line 2, column 5: '2147483648'" },
      { HEAD .. '0,0,0,1,2147483648.0\n', "line 2, column 5: '2147483648.0'" },
      { HEAD .. '0,0,0,1,99999999999999999999999\n', 'line 2, column 5' },
      { HEAD .. '0,0,0,1,"2\n', 'line %d: a quote does not end' },
      { HEAD .. '0,0,0,1,"2"2\n', 'line 2: text after a quote' },
      { HEAD .. '0,0,0,1,2\n\n0,0,0,3,4\n',
        'line 4: step 0, layer 0, rank 0 again; first in line 2' },
      { HEAD .. '0,0,0,1,2\n0,0,2,3,4\n1,0,0,5,6\n',
        'without a row for step 1, layer 0, rank 2' },
      { HEAD .. '5,0,0,1,2\n9,0,7,3,4\n', 'without a row for step 5, layer 0, rank 7' },
      { HEAD .. '0,0,0,1', 'line 2: 4 columns; the heading has 5: the file is truncated' },
      { HEAD .. '0,0,0,1,\0\n', 'line 2, column 5' },
    }
    for _, case in ipairs(cases) do
      write(path, case[1])
      check_damaged(path, case[2])
    end
  end)

  it('reports a truncated and a damaged gzip file', function()
    local rows = {}
    for rank = 0, 999 do rows[rank + 1] = ('0,0,%d,%d,2\n'):format(rank, value(0, 0, rank)) end
    write(path, HEAD .. table.concat(rows))
    os.execute(('gzip -f %s'):format(path))
    local packed = read(path .. '.gz')
    os.remove(path .. '.gz')
    local half = math.floor(#packed / 2)
    for _, length in ipairs { 5, 30, half, #packed - 9, #packed - 4, #packed - 1 } do
      write(path, packed:sub(1, length))
      check_damaged(path, '')
    end
    write(path, packed:sub(1, half) .. ('\170'):rep(20) .. packed:sub(half + 21))
    check_damaged(path, '')
    write(path, packed .. ('\0'):rep(700))
    assert.are.equal(1, trace.open(path).steps)
    for _, rest in ipairs { 'x', ('\0'):rep(512) .. 'x', packed:sub(2), '\31', packed:sub(1, 20),
      '\31\138\8' .. ('\0'):rep(7) } do
      write(path, packed .. rest)
      check_damaged(path, 'truncated or damaged gzip data')
    end
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

local lib = require 'neap.base.lib'
local text = require 'neap.engine.text'

local ffi = lib.ffi

describe('text', function()
  local root

  local function sh(command, ...)
    assert.are.equal(0, os.execute(command:format(...)))
  end

  local function write(path, content)
    local folder = (root .. path):match '^(.*)/'
    sh("mkdir -p '%s'", folder)
    local file = assert(io.open(root .. path, 'wb'))
    file:write(content)
    file:close()
  end

  --- Installs a package into root: its files, and dpkg's list of them in the given order.
  local function install(package, names)
    write(('/var/lib/dpkg/info/%s.list'):format(package), table.concat(names, '\n') .. '\n')
  end

  before_each(function()
    root = os.tmpname()
    os.remove(root)
  end)
  after_each(function() sh("rm -rf '%s'", root) end)

  local GO = '/usr/share/go-1.19/src/'

  local function install_go()
    local names = { '/.', GO .. 'b.go', GO .. 'a/z.go', GO .. 'a.go', GO .. 'readme' }
    write(GO .. 'b.go', ('b'):rep(100))
    write(GO .. 'a/z.go', ('z'):rep(100))
    write(GO .. 'a.go', ('a'):rep(100))
    write(GO .. 'readme', ('r'):rep(100))
    write(GO .. 'alien.go', ('x'):rep(100))
    install('golang-1.19-src', names)
  end

  it('takes the files of the package alone, in the order of their bytes', function()
    install_go()
    local t = text.open('go', 1000, root)
    assert.are.equal(('a'):rep(100) .. ('z'):rep(100) .. ('b'):rep(100), t:string())
    t:close()
  end)

  it('spreads a limit over the files', function()
    install_go()
    local t = text.open('go', 150, root)
    assert.are.equal(('a'):rep(100) .. ('b'):rep(50), t:string())
    t:close()
  end)

  it('unpacks, and follows no links', function()
    local folder = '/usr/share/man/fr/man1/'
    write(folder .. 'ls.1', '.TH LS\n')
    sh("gzip '%s%sls.1'", root, folder)
    sh("ln -s ls.1.gz '%s%sdir.1.gz'", root, folder)
    install('manpages-fr', { folder .. 'ls.1.gz', folder .. 'dir.1.gz' })
    local t = text.open('french', 1000, root)
    assert.are.equal('.TH LS\n', t:string())
    t:close()
  end)

  it('is held once however often it is opened', function()
    install_go()
    local a, b = text.open('go', 1000, root), text.open('go', 1000, root)
    assert.is_true(a.ptr == b.ptr)
    a:close()
    assert.are.equal('aaa', b:string(0, 3))
    b:close()
  end)

  local function check_error(code, pattern, ...)
    local ok, err = pcall(...)
    assert.is_false(ok)
    assert.are.equal(code, err.code)
    assert.matches(pattern, err.message)
  end

  it('says how to install what is missing', function()
    sh("mkdir -p '%s'", root)
    local _, packages = text.names()
    for name, package in pairs(packages) do
      check_error('ABSENT', 'apt%-get install ' .. package:gsub('%p', '%%%0') .. '$', text.open,
        name, 1000, root)
    end
    install_go()
    os.remove(root .. GO .. 'b.go')
    check_error('ABSENT', 'b.go is missing.*%-%-reinstall golang', text.open, 'go', 1000, root)
  end)

  it('names a damaged file', function()
    local path = '/usr/share/dictd/gcide.dict.dz'
    local words = {}
    for i = 1, 2000 do words[i] = tostring(lib.C.neap_random_bits(1, 1, i)) end
    write('/words', table.concat(words))
    sh("mkdir -p '%s/usr/share/dictd' && gzip -c '%s/words' | head -c 9000 > '%s%s'", root, root,
      root, path)
    install('dict-gcide', { path })
    check_error('FORMAT', 'gcide.dict.dz: byte %d+: truncated', text.open, 'english', 2 ^ 20, root)
  end)

  it('refuses unknown names and impossible limits', function()
    check_error('ABSENT', "'klingon': there is no such file or folder", text.open, 'klingon')
    check_error('ARGUMENT', 'limit is 0', text.open, 'go', 0)
  end)

  describe('sample', function()
    local t

    before_each(function()
      local bytes = {}
      for i = 0, 9999 do
        bytes[i + 1] = string.char(tonumber(lib.C.neap_random_bits(3, 4, i) % 256))
      end
      write(GO .. 'a.go', table.concat(bytes))
      install('golang-1.19-src', { GO .. 'a.go' })
      t = text.open('go', 10000, root)
    end)
    after_each(function() t:close() end)

    local function sample(length, part, seed, step, sequence)
      local ids, targets = ffi.new('int32_t[?]', length), ffi.new('int32_t[?]', length)
      t:sample(seed or 1, step or 2, sequence or 3, length, ids, targets, part)
      local bytes = {}
      for i = 0, length - 1 do
        if i > 0 then assert.are.equal(ids[i], targets[i - 1]) end
        bytes[i + 1] = string.char(ids[i])
      end
      bytes[length + 1] = string.char(targets[length - 1])
      return table.concat(bytes)
    end

    it('gives a run of the text and the byte after each', function()
      for sequence = 0, 200 do
        local at = t:string():find(sample(50, nil, 1, 2, sequence), 1, true)
        assert.is_true(at ~= nil and at + 50 <= 9500)
        at = t:string():find(sample(50, 'held_out', 1, 2, sequence), 1, true)
        assert.is_true(at ~= nil and at > 9500)
      end
    end)

    it('depends on its key alone, and on all of it', function()
      assert.are.equal(sample(20), sample(20))
      assert.are_not.equal(sample(20), sample(20, nil, 2))
      assert.are_not.equal(sample(20), sample(20, nil, 1, 3))
      assert.are_not.equal(sample(20), sample(20, nil, 1, 2, 4))
    end)

    it('covers the part to its ends', function()
      assert.are.equal(9500, #sample(9499))
      check_error('ARGUMENT', 'allowed: 1 to 9499', sample, 9500)
      check_error('ARGUMENT', 'allowed: 1 to 499', sample, 500, 'held_out')
      check_error('ARGUMENT', 'of 0 tokens', sample, 0)
    end)
  end)

  describe('of files', function()
    local folder

    --- Writes numbers as unsigned integers of so many bytes.
    local function numbers(path, width, list, head)
      local parts = { head or '' }
      for i, value in ipairs(list) do
        for byte = 0, width - 1 do
          parts[#parts + 1] = string.char(math.floor(value / 256 ^ byte) % 256)
        end
        if i % 1000 == 0 then parts = { table.concat(parts) } end
      end
      write('/own/' .. path, table.concat(parts))
    end

    local function ids_of(name, vocabulary)
      local t = text.open(folder .. name)
      local ids, list = ffi.new('int32_t[?]', t.size), {}
      t:ids(0, t.size, ids, vocabulary or 2 ^ 31 - 1)
      for i = 1, t.size do list[i] = ids[i - 1] end
      t:close()
      return list, t
    end

    local function word(width, value)
      local bytes = {}
      for byte = 0, width - 1 do
        bytes[byte + 1] = string.char(math.floor(value / 256 ^ byte) % 256)
      end
      return table.concat(bytes)
    end

    --- An index as Megatron writes it, of sequences of so many ids.
    local function index(path, code, width, lengths, changes)
      local parts, offset = { 'MMIDIDX\0\0', word(8, 1), word(1, code), word(8, #lengths),
        word(8, #lengths + 1) }, 0
      for _, length in ipairs(lengths) do parts[#parts + 1] = word(4, length) end
      for _, length in ipairs(lengths) do
        parts[#parts + 1] = word(8, offset)
        offset = offset + length * width
      end
      for i = 0, #lengths do parts[#parts + 1] = word(8, i) end
      local whole = table.concat(parts)
      write('/own/' .. path, changes and changes(whole) or whole)
    end

    before_each(function() folder = root .. '/own/' end)

    it('takes a file, a folder with its folders, and a pattern, in the order of names', function()
      write('/own/b.txt', 'bb')
      write('/own/a.txt', 'aaa')
      write('/own/sub/c.md', 'c')
      write('/own/.hidden', 'h')
      write('/own/sub/__init__.py', '')
      for name, bytes in pairs { ['a.txt'] = 'aaa', [''] = 'aaabbc', ['*.txt'] = 'aaabb',
        ['[ab].txt'] = 'aaabb', ['sub/c.md:bytes'] = 'c' } do
        local t = text.open(folder .. name)
        assert.are.equal(bytes, t:string())
        t:close()
      end
      check_error('ABSENT', 'no file matches', text.open, folder .. '*.pdf')
      sh("mkdir '%sempty'", folder)
      check_error('ABSENT', 'no file in the folder has anything', text.open, folder .. 'empty')
      write('/own/empty.txt', '')
      check_error('FORMAT', 'empty.txt: the file is empty', text.open, folder .. 'empty.txt')
    end)

    it('unpacks', function()
      write('/own/a.txt', ('abc'):rep(1000))
      sh("gzip -k '%sa.txt'", folder)
      local t = text.open(folder .. 'a.txt.gz')
      assert.are.equal(('abc'):rep(1000), t:string())
      t:close()
      sh("head -c 20 '%sa.txt.gz' >'%scut.gz'", folder, folder)
      check_error('FORMAT', 'cut.gz: byte %d+: truncated', text.open, folder .. 'cut.gz')
    end)

    it('reads ids of 16 and 32 bits, as they show or are said to be', function()
      local list = {}
      for i = 1, 3000 do list[i] = tonumber(lib.C.neap_random_bits(1, 2, i) % 50000) end
      numbers('t16.bin', 2, list)
      numbers('t32.bin', 4, list)
      assert.are.same(list, (ids_of 't16.bin'))
      assert.are.same(list, (ids_of 't32.bin'))
      assert.are.same(list, (ids_of 't16.bin:u16'))
      assert.are.equal(6000, #ids_of 't32.bin:u16')
      assert.are.equal(2, (select(2, ids_of 't16.bin')).width)
      write('/own/odd.bin', ('x'):rep(1001))
      check_error('FORMAT', '1001 bytes are no whole number of ids of 2', ids_of, 'odd.bin')
      local ok, err = pcall(ids_of, 't16.bin', 100)
      assert.is_false(ok)
      local at, id = err.message:match 't16.bin: token (%d+) is id (%d+) of a vocabulary of 100'
      assert.are.equal(list[at + 1], tonumber(id))
    end)

    it("reads llm.c's header, and finds a file that is cut off", function()
      local list = { 5, 50256, 7, 9 }
      for width, magic in pairs { [2] = 20240520, [4] = 20240801 } do
        local head = word(4, magic) .. word(4, 1) .. word(4, #list) .. ('\0'):rep(1012)
        numbers(width .. '.bin', width, list, head)
        assert.are.same(list, (ids_of(width .. '.bin')))
        numbers('cut.bin', width, { 5, 50256, 7 }, head)
        check_error('FORMAT', 'cut.bin: its header announces 4 tokens, which makes '
          .. (1024 + 4 * width) .. ' bytes; the file has', ids_of, 'cut.bin')
      end
      check_error('ARGUMENT', 'says ids of 4 bytes; not 2', ids_of, '4.bin:u16')
    end)

    it("reads what Megatron's index says, and finds one that does not fit", function()
      local list = { 1, 2, 70000, 4, 5, 6, 7 }
      numbers('pair.bin', 4, list)
      index('pair.idx', 4, 4, { 3, 0, 4 })
      for _, name in ipairs { 'pair.bin', 'pair.idx', 'pair', '' } do
        assert.are.same(list, (ids_of(name)))
      end
      local function damaged(pattern, ...)
        index('pair.idx', ...)
        check_error('FORMAT', pattern, ids_of, 'pair')
      end
      damaged('sequence 1 has 5 ids of 4 bytes from byte 12 to byte 28', 4, 4, { 3, 5 })
      damaged('type 7; ids must be', 7, 4, { 3, 4 })
      damaged('byte 18: .* do not fit', 4, 4, { 3, 4 }, function(s) return s:sub(1, -9) end)
      damaged('byte 0: not an index', 4, 4, { 3, 4 }, function(s) return 'x' .. s:sub(2) end)
      damaged('byte 9: version 2', 4, 4, { 3, 4 },
        function(s) return s:sub(1, 9) .. '\2' .. s:sub(11) end)
    end)

    it('does not mix bytes and ids in one text', function()
      write('/own/a.txt', 'text')
      numbers('b.bin', 2, { 1, 2 })
      check_error('FORMAT', 'b.bin of 2: bytes and a tokenizer', text.open, folder)
    end)

    it('goes into schedules, with what would mean something else behind a backslash', function()
      install_go()
      write('/own/a.txt', ('a'):rep(100))
      write('/own/c++,1@2.txt', ('c'):rep(100))
      local spec = folder .. 'a.txt,go+' .. folder .. 'c\\+\\+\\,1\\@2.txt*3@5'
      local s = text.schedule(spec, 1000, root)
      assert.are.equal(folder .. 'a.txt', s:domain(4))
      assert.are.equal('go+' .. folder .. 'c++,1@2.txt', s:domain(5))
      local again = text.schedule(s:describe(), 1000, root)
      assert.are.same(s.list, again.list)
      s:check(94, nil, { 'training' })
      check_error('USAGE', 'has 100 tokens; sequences of 95 and the token after them need 102',
        s.check, s, 95, nil, { 'training' })
      check_error('USAGE', 'need 120 or more, since the last 5 %% are held out',
        s.check, s, 5, nil, { 'held_out' })
      check_error('USAGE', 'is id 97 of a vocabulary of 90: bytes need', s.check, s, 5, 90,
        { 'training' })
      local alone = text.schedule(folder .. 'c++,1@2.txt')
      assert.are.equal(folder .. 'c++,1@2.txt', alone:domain(0))
      check_error('USAGE', 'no such file', text.schedule, folder .. 'none.txt')
    end)
  end)

  describe('schedule', function()
    before_each(function()
      install_go()
      for _, language in ipairs { 'fr', 'ru' } do
        local name = ('/usr/share/man/%s/man1/a.1'):format(language)
        write(name, (language):rep(500))
        sh("gzip '%s%s'", root, name)
        install('manpages-' .. language, { name .. '.gz' })
      end
    end)

    it('switches at its steps', function()
      local s = text.schedule('french,go@40,french+russian*3@80', 1000, root)
      assert.are.equal('french', s:domain(0))
      assert.are.equal('french', s:domain(39))
      assert.are.equal('go', s:domain(40))
      assert.are.equal('french+russian', s:domain(1000))
      s:close()
    end)

    it('mixes by weight, and draws what it picks', function()
      local s = text.schedule('french+russian*3', 1000, root)
      local ids, targets, russian = ffi.new 'int32_t[8]', ffi.new 'int32_t[8]', 0
      for sequence = 0, 999 do
        local picked = s:pick(1, 5, sequence)
        s:sample(1, 5, sequence, 8, ids, targets)
        local first = picked == 'russian' and 'ru' or 'fr'
        assert.is_truthy(first:find(string.char(ids[0]), 1, true) or ids[0] == ('r'):byte())
        russian = russian + (picked == 'russian' and 1 or 0)
      end
      assert.is_true(russian > 700 and russian < 800, russian)
      s:close()
    end)

    it('refuses what makes no sense', function()
      check_error('USAGE', "unknown text 'frnch' %(did you mean 'french'%?%)", text.schedule,
        'frnch')
      check_error('USAGE', 'needs the step', text.schedule, 'french,go')
      check_error('USAGE', 'must begin with 0 and rise; 40 follows 40', text.schedule,
        'french,go@40,russian@40', 1000, root)
      check_error('USAGE', 'begin with 0', text.schedule, 'go@5', 1000, root)
      check_error('USAGE', 'weights', text.schedule, 'go*0', 1000, root)
      check_error('USAGE', 'empty', text.schedule, '')
    end)
  end)
end)

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
    check_error('ARGUMENT', "'klingon' is unknown; there are: english, go", text.open, 'klingon')
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

    local function sample(length, held_out, seed, step, sequence)
      local ids, targets = ffi.new('int32_t[?]', length), ffi.new('int32_t[?]', length)
      t:sample(seed or 1, step or 2, sequence or 3, length, ids, targets, held_out)
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
        local at = t:string():find(sample(50, false, 1, 2, sequence), 1, true)
        assert.is_true(at ~= nil and at + 50 <= 9500)
        at = t:string():find(sample(50, true, 1, 2, sequence), 1, true)
        assert.is_true(at ~= nil and at > 9500)
      end
    end)

    it('depends on its key alone, and on all of it', function()
      assert.are.equal(sample(20), sample(20))
      assert.are_not.equal(sample(20), sample(20, false, 2))
      assert.are_not.equal(sample(20), sample(20, false, 1, 3))
      assert.are_not.equal(sample(20), sample(20, false, 1, 2, 4))
    end)

    it('covers the part to its ends', function()
      assert.are.equal(9500, #sample(9499))
      check_error('ARGUMENT', 'allowed: 1 to 9499', sample, 9500)
      check_error('ARGUMENT', 'allowed: 1 to 499', sample, 500, true)
      check_error('ARGUMENT', 'of 0 bytes', sample, 0)
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

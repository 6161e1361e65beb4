-- SPDX-License-Identifier: Apache-2.0

local launcher = require 'neap.launcher'
local provenance = require 'neap.runs.provenance'
local sources = require 'neap.base.sources'

local folder

local function write(name, text)
  local file = assert(io.open(folder .. '/' .. name, 'wb'))
  file:write(text)
  file:close()
  return folder .. '/' .. name
end

describe('the sources of a file', function()
  it('reads files of any kind, and devices to a limit', function()
    assert.matches('^%x+%-', sources.read '/proc/sys/kernel/random/boot_id')
    assert.are.equal('', sources.read '/dev/null')
    assert.are.equal(2 ^ 24, #sources.read '/dev/zero')
    assert.is_nil(sources.read '/tmp')
    local path, body = os.tmpname(), ('line\n'):rep(2 ^ 22)
    local file = io.open(path, 'w')
    file:write(body)
    file:close()
    assert.is_true(body == sources.read(path))
    os.remove(path)
  end)

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute(("mkdir -p '%s/parts'"):format(folder))
  end)
  after_each(function() os.execute(("rm -r '%s'"):format(folder)) end)

  it('are its own text where it requires nothing of the user', function()
    local text = "local neap, ffi = require 'neap', require('ffi')\nreturn require 'not.there'\n"
    assert.are.equal(text, sources.text(write('a.lua', text)))
    assert.are.equal('', sources.text(write('empty.lua', '')))
    assert.is_nil(sources.text(folder .. '/none.lua'))
    text = "\0 require 'b'"
    write('b.lua', 'return 1')
    assert.are.equal(text, sources.text(write('data', text)))
  end)

  it('have every module once, those of modules too, and in the order of the text', function()
    local main = write('main.lua', 'dofile "' .. folder .. '/last"; local x = require("parts.b")\n'
      .. "local y = require 'a'; local z = { require\t( 'c' ) }")
    write('last', '1')
    write('a.lua', "return require 'parts.b'")
    write('parts/b.lua', "return require 'main', require \"a\", require 'd'")
    write('c.lua', '3')
    write('d.lua', '4')
    local names = {}
    for name in sources.text(main):gmatch '\n%-%- (%S+):\n' do names[#names + 1] = name end
    assert.are.same({ folder .. '/last', 'parts.b', 'a', 'd', 'c' }, names)
  end)

  it('change with any of them', function()
    local main, seen = write('main.lua', "return require 'a'"), {}
    for _, change in ipairs { { 'main.lua', "return (require 'a')" }, { 'a.lua', 'return 1' },
      { 'a.lua', "return require 'b'" }, { 'b.lua', 'return 1' }, { 'b.lua', 'return 2' } } do
      write(unpack(change))
      local hash = provenance.source_hash(main)
      assert.is_nil(seen[hash])
      seen[hash] = true
    end
    write('c.lua', 'return 2')
    assert.is_true(seen[provenance.source_hash(main)])
  end)

  it('are what require finds: Neap first, then what lies beside the file', function()
    local before = package.path
    write('neap.lua', 'error "not this one"')
    write('cjson.lua', 'return "beside"')
    local main = write('main.lua', "return { require 'neap.base.json', require 'cjson' }")
    for _ = 1, 2 do
      sources.reach(main)
      assert.are.equal(folder .. '/cjson.lua', package.searchpath('cjson', package.path))
      assert.are_not.equal(folder .. '/neap.lua', package.searchpath('neap', package.path))
    end
    local text = sources.text(main)
    package.path = before
    assert.are.equal(text, sources.text(main))
    assert.matches('\n%-%- cjson:\nreturn "beside"$', text)
  end)

  it('leave out what comes with Neap', function()
    local shipped = launcher.home .. '/experiments/policies/laer.lua'
    assert.are.equal(sources.read(shipped), sources.text(shipped))
  end)
end)

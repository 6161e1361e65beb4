local program = require 'tests.cli.program'

describe('neap completion', function()
  for _, shell in ipairs { 'bash', 'zsh', 'fish' } do
    it('knows commands and options for ' .. shell, function()
      local status, out, err = program.run('completion ' .. shell)
      assert.are.equal(0, status, err)
      for _, word in ipairs { 'replay', 'report', 'window', 'retry%-failed', 'kernel' } do
        assert.matches(word, out)
      end
    end)
  end

  it('completes in bash', function()
    local _, out, err = program.shell(("bash -c 'source <(\"%s\" completion bash); "
      .. "COMP_WORDS=(neap replay --pol); COMP_CWORD=2; _neap; echo ${COMPREPLY[@]}'"):format(
      program.path))
    assert.are.equal('--policy --policies\n', out, err)
  end)
end)

--- Names of all modules under lua/, as require takes them.
local function modules()
  local _, out = program.shell(("cd '%s/lua' && find . -name '*.lua'"):format(program.home))
  local names = {}
  for path in out:gmatch '%./([^\n]+)%.lua' do
    names[#names + 1] = path:gsub('/', '.'):gsub('%.init$', '')
  end
  return names
end

describe('the Lua reference', function()
  local folder, said
  local function page(name)
    local file = assert(io.open(('%s/%s.html'):format(folder, name)), name)
    local text = file:read '*a'
    file:close()
    return text
  end

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    local status, out, err = program.shell(("cd '%s' && ldoc -d '%s' ."):format(program.home,
      folder))
    assert.are.equal(0, status, out .. err)
    said = err:gsub('[^\n]*contains no items\n', '') -- no comment but the module's own
  end)
  teardown(function() os.execute(("rm -r '%s'"):format(folder)) end)

  it('is generated from comments without a warning', function()
    assert.are.equal('', said)
  end)

  it('has a page for every module', function()
    local names, index = modules(), page 'index'
    assert.is_true(#names > 100)
    for _, name in ipairs(names) do
      assert.is_truthy(index:find(('modules/%s.html'):format(name), 1, true), name)
      page('modules/' .. name)
    end
  end)

  it('shows functions as they are called', function()
    for name, word in pairs { ['engine.layout'] = 'Layout:changed', replay = 'replay.score',
      ['nn.transformer'] = 'Transformer', ['policy.history'] = 'History:sum',
      ['runs.statistics'] = 'statistics.paired' } do
      assert.is_truthy(page('modules/neap.' .. name):find(word, 1, true), name .. ' ' .. word)
    end
  end)
end)

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
    assert.are.equal('--policy\n', out, err)
  end)
end)

describe('the Lua reference', function()
  it('is generated from comments', function()
    local folder = os.tmpname()
    os.remove(folder)
    local status, out, err = program.shell(("cd '%s' && ldoc -d '%s' ."):format(program.home,
      folder))
    assert.are.equal(0, status, out .. err)
    for page, word in pairs { layout = 'Layout:changed', replay = 'replay.score',
      ['nn.transformer'] = 'Transformer', history = 'History:sum' } do
      local file = assert(io.open(('%s/modules/%s.html'):format(folder, page)), page)
      assert.is_truthy(file:read '*a':find(word, 1, true), page .. ' lacks ' .. word)
      file:close()
    end
    os.execute(("rm -r '%s'"):format(folder))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

-- neap crossover, through the program.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local SMALL = 'crossover --cluster h100x8 --experts 8,12,16 --tokens 512,1024 --layers 1 '

local function expect(status, arguments, pattern)
  local got, out, err = program.run(arguments)
  assert.are.equal(status, got, arguments .. '\n' .. out .. err)
  assert.matches(pattern or '', err)
  return out
end

describe('neap crossover', function()
  it('tells the fastest for each number of experts and tokens, and draws it', function()
    local path = os.tmpname()
    local out = expect(0, SMALL .. '--picture ' .. path)
    local file = assert(io.open(path))
    local picture = file:read '*a'
    file:close()
    os.remove(path)
    assert.matches('routing counted', out)
    local lines, cells = 0, 0
    for _ in out:gmatch '\n +%d+ +%d+ +%d+%.%d%d +%d+ ' do lines = lines + 1 end
    for _ in picture:gmatch 'EP %d+, %+%d+ %%' do cells = cells + 1 end
    assert.are.same({ 6, 6 }, { lines, cells })
    assert.matches('^<svg', picture)
    local pale = 0
    for lead in out:gmatch ' (%d+%.%d)\n' do pale = pale + (tonumber(lead) < 1.95 and 1 or 0) end
    assert.are.equal(pale, select(2, picture:gsub('fill%-opacity', '')))
  end)

  it('has every way in JSON, and the verdicts', function()
    local document = json.decode(expect(0, SMALL .. '--ep 4,8 --json'))
    assert.are.equal(6, #document.winners)
    for _, row in ipairs(document.rows) do assert.is_true(row.imbalance.mean >= 1) end
    for _, verdict in ipairs(document.winners) do
      local least, fastest = math.huge, nil
      for _, row in ipairs(document.rows) do
        if row.experts == verdict.experts and row.tokens == verdict.tokens
          and row.step_ms < least then
          least, fastest = row.step_ms, row.system
        end
      end
      assert.are.equal(fastest, verdict.winner)
    end
    -- 8 and 16 experts on 4 or 8 ranks, 12 on 4: of each 1 + 1 + 3 rows, of two numbers of tokens
    assert.are.equal(2 * 5 * 5, #document.rows)
  end)

  it('shows all rows', function()
    local out = expect(0, 'crossover --cluster h100x8 --experts 8 --tokens 512 --layers 1 --all')
    assert.matches('resident +static +1 +8 ', out)
    assert.matches('fsep +neap +8 +1 ', out)
    assert.matches('fastest', out)
  end)

  it('refuses what makes no sense', function()
    expect(2, 'crossover --experts 0', "%-%-experts is '0'")
    expect(2, 'crossover --experts ,', '%-%-experts is empty')
    expect(2, 'crossover --experts 8 --ep 7', 'none of these numbers divides both the 256 ranks')
    expect(2, 'crossover --routing latr', "did you mean 'later'")
    expect(2, 'crossover --model nowhere.lua', 'nowhere.lua')
    expect(2, 'crossover --schedule lear', "did you mean 'laer'")
  end)
end)

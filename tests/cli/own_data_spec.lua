-- SPDX-License-Identifier: Apache-2.0

--- Trainings on one's own data, and their validation losses.

local json = require 'neap.base.json'
local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

local RUN = 'run %s/experiments/quickstart.lua --layers=1 --hidden=16 --heads=1 --kv-heads=1 '
  .. '--experts=4 --ffn=16 --batch=4 --trace= --priced-on= --policies=static --no-store '
  .. '--json '

describe('own data', function()
  local folder

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    program.shell(("mkdir '%s'"):format(folder))
    local words, ids = {}, {}
    for i = 1, 4000 do
      words[i] = ({ 'tide ', 'moon ', 'shore ', 'ebb\n' })[i * i % 7 % 4 + 1]
      local id = 2 * (i * i % 601)
      ids[i] = string.char(id % 256, math.floor(id / 256))
    end
    for name, content in pairs { ['mine.txt'] = words, ['ids.bin'] = ids,
      ['same.txt'] = { ('a'):rep(1000) }, ['tiny.txt'] = { '123456789' } } do
      local file = io.open(folder .. '/' .. name, 'wb')
      file:write(table.concat(content))
      file:close()
    end
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(folder)) end)

  local function run(status, options)
    local more = (options:find '--sequence' and '' or ' --sequence=16')
      .. (options:find '--steps' and '' or ' --steps=6')
    local command = RUN:format(launcher.home) .. options .. more
    local got, out, err = program.shell(("cd '%s' && '%s' %s"):format(folder, program.path,
      command))
    assert.are.equal(status, got, out .. err)
    return status == 0 and json.decode(out).rows[1] or err
  end

  it('trains on a file, and a validation loss changes nothing', function()
    local plain = run(0, '--text=mine.txt -n 2')
    local eval = run(0, '--text=mine.txt -n 2 --eval-every=4 --eval-batches=2')
    assert.are.equal(plain.digest, eval.digest)
    assert.are.same(plain.bytes_per_step, eval.bytes_per_step)
    assert.is_nil(plain.eval_loss)
    assert.are.same({ 3, 5 }, eval.eval_steps)
    assert.are.equal(eval.eval_losses[2], eval.eval_loss)
    local alone = run(0, '--text=mine.txt -n 1 --eval-every=4 --eval-batches=2')
    assert.are.equal(eval.eval_loss, alone.eval_loss)
  end)

  it('tells what the next step will lose on the same tokens', function()
    local row = run(0, '--text=same.txt -n 2 --eval-every=1 --eval-batches=1')
    for step = 1, 5 do assert.are.equal(row.losses[step + 1], row.eval_losses[step]) end
    assert.is_true(row.eval_loss < row.losses[6])
  end)

  it('goes on after a checkpoint, with the losses before it', function()
    local options = '--text=mine.txt -n 2 --eval-every=2 --eval-batches=1 --checkpoint=saved '
    local whole = run(0, (options:gsub('%-%-checkpoint=saved', '')))
    run(0, options .. '--checkpoint-every=4 --steps=4')
    local resumed = run(0, options .. '--resume --steps=6')
    assert.are.equal(whole.digest, resumed.digest)
    assert.are.same({ 1, 3, 5 }, resumed.eval_steps)
    assert.are.same(whole.eval_losses, resumed.eval_losses)
  end)

  it('trains on ids with a vocabulary, mixes texts, and validates on another', function()
    local row = run(0, "--text='ids.bin,ids.bin+mine.txt*2@3' --vocabulary=1202 -n 2 "
      .. "--eval-every=3 --eval-text='*.txt'")
    assert.is_true(row.tokenised and math.abs(row.losses[1] - math.log(1202)) < 1)
    assert.is_nil(row.bits_per_byte)
    assert.is_number(row.eval_loss)
  end)

  it('says what is wrong before it begins', function()
    for options, pattern in pairs {
      ['--text=ids.bin'] = 'ids.bin: token %d+ is id %d+ of a vocabulary of 256: give %-%-vocabul',
      ['--text=ids.bin --vocabulary=1200'] = 'is id 1200 of a vocabulary of 1200',
      ['--text=none.txt'] = "'none.txt': there is no such file",
      ['--text=mine'] = "unknown text 'mine'; there are: english, .* files, folders and patterns",
      ['--text=mine.txt --eval-every=2 --sequence=1300'] = 'has %d+ tokens; .* need 26020',
      ['--text=mine.txt --eval-text=tiny.txt --eval-every=1'] = 'has 9 tokens; .* need 17',
    } do
      assert.matches(pattern, run(2, options .. ' -n 2'))
    end
  end)
end)

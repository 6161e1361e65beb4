-- SPDX-License-Identifier: Apache-2.0

--- neap checkpoint: what it tells of checkpoints, and parameters out of them and into them.

local folders = require 'neap.train.checkpoint_folder'
local reader = require('neap.engine.checkpoint').reader
local json = require 'neap.base.json'
local program = require 'tests.cli.program'

local PYTHON = '/usr/bin/python3' -- with no package: the form is simple enough

local made = {}

local function new_path()
  local path = os.tmpname()
  os.remove(path)
  made[#made + 1] = path
  return path
end

local function run(arguments)
  local status, out, err = program.run('run tests/cli/recipes/saved.lua --json ' .. arguments)
  assert.are.equal(0, status, err)
  return json.decode(out).rows[1]
end

local function checkpoint(arguments, expected)
  local status, out, err = program.run('checkpoint ' .. arguments)
  assert.are.equal(expected or 0, status, err)
  return out, err
end

local function damage(path)
  local file = io.open(path, 'r+b')
  file:seek('set', 5000)
  local byte = file:read(1):byte()
  file:seek('set', 5000)
  file:write(string.char(255 - byte))
  file:close()
end

describe('neap checkpoint', function()
  local folder, row

  setup(function()
    folder = new_path()
    row = run(('--checkpoint=%s --checkpoint-every=4 --checkpoint-keep=3'):format(folder))
  end)

  teardown(function()
    for _, path in ipairs(made) do os.execute(("rm -rf '%s'"):format(path)) end
  end)

  it('info tells what there is', function()
    local out = checkpoint('info ' .. folder)
    for _, pattern in ipairs { '\n +1 +12 +whole +3', '\n +1 +4 +whole', 'step 12 of 12',
      'recipe +saved %(tests/cli/recipes/saved.lua%), SHA%-256 %x+', 'policy +laer',
      '2 layers, hidden 16, 7 experts of 6,12,3,9,6,15,3, 15,216 parameters, masters f32',
      'trained +from step 0 laer on 3 ranks %(cpu%)', ('loss +%.4f'):format(row.losses[12]),
      'parameters .*batch=5.*rate=0.02' } do
      assert.is_truthy(out:find(pattern), pattern .. '\n' .. out)
    end
    local document = json.decode((checkpoint('info --json ' .. folder)))
    assert.are.equal(3, #document.rows)
    assert.are.equal(12, document.rows[1].step)
    assert.are.equal('whole', document.rows[3].state)
    assert.are.equal('saved', document.recipe.name)
    assert.are.equal('5', document.parameters.batch)
    local one = json.decode((checkpoint(('info --json %s/training-1/step-00000004/'):format(
      folder))))
    assert.are.equal(4, one.rows[1].step)
    assert.are.equal(1, one.rows[1].training)
    checkpoint('info ' .. new_path(), 2)
  end)

  it('check reads every byte, and names what is damaged or incomplete', function()
    local out = checkpoint('check ' .. folder)
    assert.is_nil(out:find 'damaged')
    local copy = new_path()
    os.execute(("cp -r '%s' '%s'"):format(folder, copy))
    damage(folders.step_path(copy, 1, 8) .. '/rank-00001.safetensors')
    os.remove(folders.manifest_path(folders.step_path(copy, 1, 4)))
    local err
    out, err = checkpoint('check ' .. copy, 5)
    assert.is_truthy(out:find '1 +12 +whole', out)
    assert.is_truthy(out:find '1 +8 +damaged', out)
    assert.is_truthy(out:find '1 +4 +incomplete', out)
    assert.is_truthy(err:find 'step%-00000008/rank%-00001.safetensors: bytes 0 to %d+: check', err)
    local document = json.decode((checkpoint('check --json ' .. copy, 5)))
    assert.are.equal(1, document.damaged)
    assert.is_string(document.rows[2].error)
    os.remove(folders.step_path(copy, 1, 12) .. '/rank-00002.safetensors')
    out = checkpoint('check ' .. copy, 5)
    assert.is_truthy(out:find '1 +12 +damaged', out)
  end)

  it('export writes named tensors that others read, whatever the ranks were', function()
    local file, other, one = new_path(), new_path(), new_path()
    checkpoint(('export %s %s --optimizer'):format(folder, file))
    run(('-n 1 --slots=7 --checkpoint=%s --checkpoint-every=50'):format(one))
    checkpoint(('export %s %s --optimizer'):format(one, other))
    local script = [[
import json, struct, sys
def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__")
    end, tensors = 0, {}
    for name, t in header.items():
        first, last = t["data_offsets"]
        count = 1
        for d in t["shape"]: count *= d
        assert first == end and last - first == 4 * count and t["dtype"] == "F32", name
        end = last
        tensors[name] = (tuple(t["shape"]), data[8 + n + first:8 + n + last])
    assert 8 + n + end == len(data)
    return tensors
a, b = load(sys.argv[1]), load(sys.argv[2])
assert a == b
assert len(a) == 3 * 41, len(a)
assert a["embed"][0] == (256, 16) and a["layer1.expert5.w1"][0] == (16, 30)
assert a["layer1.expert5.w2.moment2"][0] == (15, 16)
assert len(set(v for _, v in a.values())) > 100
print("fine")]]
    local status, out, err = program.shell(("%s -c '%s' %s %s"):format(PYTHON, script, file, other))
    assert.are.equal(0, status, err)
    assert.are.equal('fine\n', out)
  end)

  it('import begins a training with given parameters', function()
    local file, begun, again = new_path(), new_path(), new_path()
    checkpoint(('export %s/training-1/step-00000008 %s'):format(folder, file))
    checkpoint(('import %s %s'):format(file, begun))
    assert.is_truthy(checkpoint('info ' .. begun):find('not yet: it was imported', 1, true))
    checkpoint(('export %s %s'):format(begun, again))
    local status = program.shell(("tail -c 60864 '%s' >'%s.a'; tail -c 60864 '%s' >'%s.b'; cmp "
      .. "'%s.a' '%s.b'"):format(file, file, again, file, file, file))
    made[#made + 1], made[#made + 2] = file .. '.a', file .. '.b'
    assert.are.equal(0, status)
    local digests = {}
    for i, ranks in ipairs { '-n 3', '-n 1 --slots=9', '-n 2 --slots=4' } do
      local copy = new_path()
      os.execute(("cp -r '%s' '%s'"):format(begun, copy))
      local got = run(('%s --resume --checkpoint=%s'):format(ranks, copy))
      digests[i] = got.digest
      assert.are.equal(12, got.steps)
      assert.is_true(got.losses[1] < row.losses[1])
      assert.is_nil(got.segments)
    end
    assert.are.same({ digests[1], digests[1], digests[1] }, digests)
    local _, err = checkpoint(('import %s %s'):format(file, begun), 2)
    assert.is_truthy(err:find('has checkpoints; name another folder', 1, true), err)
  end)

  it('biases that were moved come along', function()
    local from, file, begun, again = new_path(), new_path(), new_path(), new_path()
    run(('--scores=sigmoid --bias-rate=0.01 --checkpoint=%s --checkpoint-every=50'):format(from))
    checkpoint(('export %s %s'):format(from, file))
    checkpoint(('import %s %s'):format(file, begun))
    checkpoint(('export %s %s'):format(begun, again))
    local files, moved = { reader(file), reader(again) }, 0
    for layer = 0, 1 do
      local name = ('layer%d.router_bias'):format(layer)
      local out, back = files[1]:read(name, 'f64'), files[2]:read(name, 'f64')
      for e = 0, 6 do
        assert.are.equal(out[e], back[e])
        assert.is_true(math.abs(out[e]) < 0.125) -- in 12 steps
        moved = moved + math.abs(out[e])
      end
    end
    assert.is_true(moved > 0)
  end)

  it('import refuses what does not fit', function()
    local script = [[
import json, struct, sys
data = open(sys.argv[1], "rb").read()
n = struct.unpack("<Q", data[:8])[0]
header, body = json.loads(data[8:8 + n]), data[8 + n:]
exec(sys.argv[3])
text = json.dumps(header).encode()
open(sys.argv[2], "wb").write(struct.pack("<Q", len(text)) + text + body)]]
    local file, other = new_path(), new_path()
    checkpoint(('export %s %s'):format(folder, file))
    local function edited(change, like)
      local status, _, why = program.shell(("%s -c '%s' %s %s '%s'"):format(PYTHON, script, file,
        other, change))
      assert.are.equal(0, status, why)
      return program.run(('checkpoint import %s %s %s'):format(other, new_path(), like or ''))
    end
    for change, pattern in pairs {
      ['header["embad"] = header.pop("embed")'] = "no tensor 'embed' %(256, 16%) %(did you mean "
        .. "'embad'%?%)",
      ['header["embed"]["shape"] = [16, 256]'] = "'embed' is %(16, 256%); the model has %(256, 1",
      ['header["more"] = dict(header["norm"])'] = "'more' is none of the model's",
      ['header["embed"]["dtype"] = "I32"'] = "'embed' is of a type that cannot be taken",
      ['header["norm"]["data_offsets"][1] += 4'] = "'norm' does not lie where it should",
    } do
      local status, _, err = edited(change)
      assert.are_not.equal(0, status)
      assert.is_truthy(err:find(pattern), pattern .. '\n' .. err)
    end
    local status, _, err = edited 'header.pop("__metadata__")'
    assert.are.equal(2, status)
    assert.is_truthy(err:find('name a checkpoint of such a model by --like', 1, true), err)
    assert.are.equal(0, (edited('header.pop("__metadata__")', '--like ' .. folder)))
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- Reading what others may have written.

local checkpoint = require 'neap.engine.checkpoint'
local ffi = require 'ffi'

local function written(name, dtype, dims, values)
  local path, writer = os.tmpname(), checkpoint.writer()
  writer:begin(path)
  writer:add(name, dtype, dims, values)
  writer:start()
  local about = writer:wait()
  writer:close()
  return checkpoint.reader(path, about), path
end

describe('a checkpoint reader', function()
  it('gives Lua no NaN but its own: others would be taken for pointers', function()
    local values = ffi.new('double[6]', { 1.5, -0.0, 1 / 0, 0, 0, -1 / 0 })
    local words = ffi.cast('uint32_t *', values)
    words[6], words[7] = 0xdeadbeef, 0xfffdffff -- a string, by its bits
    words[8], words[9] = 1, 0x7ff00000
    local reader, path = written('numbers', 'f64', { 6 }, values)
    local read = reader:read('numbers', 'f64')
    assert.are.equal(1.5, read[0])
    assert.are.equal(-1 / 0, 1 / read[1])
    assert.are.equal(1 / 0, read[2])
    assert.are.equal(-1 / 0, read[5])
    for i = 3, 4 do
      assert.are.equal('number', type(read[i]))
      assert.are_not.equal(read[i], read[i])
    end
    reader:close()
    os.remove(path)
  end)

  it('refuses tensors of types that there are none of here', function()
    local path = os.tmpname()
    local file = assert(io.open(path, 'wb'))
    local header = '{"w":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}'
    file:write(string.char(#header), ('\0'):rep(7), header, 'abcd')
    file:close()
    local reader, out = checkpoint.reader(path), ffi.new 'char[4]'
    assert.is_nil(reader.tensors.w.dtype)
    local lib = require 'neap.base.lib'
    assert.are.equal(lib.C.NEAP_SHAPE,
      lib.C.neap_checkpoint_reader_read(reader.ptr, 'w', -1, 0, 1, out))
    assert.matches('I16', lib.ffi.string(lib.C.neap_error_message()))
    reader:close()
    os.remove(path)
  end)
end)

-- SPDX-License-Identifier: Apache-2.0

--- Every source says under which licence it is, in the form of SPDX.

local lib = require 'neap.base.lib'
local sources = require 'neap.base.sources'

describe('sources', function()
  it('name their licence', function()
    local listing = io.popen(([[cd '%s' &&
      find core kernels lua experiments python tests cmake neap CMakeLists.txt .luacheckrc .ci \
      -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.lua' \
      -o -name '*.py' -o -name '*.sh' -o -name '*.cmake' -o ! -name '*.*' \) \
      ! -path 'tests/fuzz/*/*' ! -path '*/__pycache__/*']]):format(lib.home))
    local lacking, count = {}, 0
    for path in listing:lines() do
      count = count + 1
      local text = sources.read(lib.home .. '/' .. path)
      if not text:find('SPDX-License-Identifier: Apache-2.0', 1, true) then
        lacking[#lacking + 1] = path
      end
    end
    listing:close()
    assert.are.same({}, lacking)
    assert.is_true(count > 700)
  end)
end)

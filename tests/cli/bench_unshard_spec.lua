-- SPDX-License-Identifier: Apache-2.0

--- neap bench unshard: what it reports, in both types of parameters.

local json = require 'neap.base.json'
local program = require 'tests.cli.program'

describe('neap bench unshard', function()
  it('rates bytes that travel in the type of the parameters, and gradients in F32', function()
    for name, bytes in pairs { f32 = 4, bf16 = 2 } do
      local status, out, err = program.run('bench unshard --json --ranks=3 --experts=5 --slots=3 '
        .. '--hidden=16 --ffn=20 --repeats=2 --dtype=' .. name)
      assert.are.equal(0, status, err)
      local r, size = json.decode(out).rows[1], 3 * 16 * 20
      assert.are.equal(name, r.dtype)
      assert.are.equal('f32', r.gradient_dtype)
      local function near(a, b) assert.is_true(math.abs(a / b - 1) < 1e-9, a .. ' ' .. b) end
      near(r.unshard_gb_per_second * r.unshard_ms, 2 * 9 * size * bytes / 1e6)
      near(r.reduce_gb_per_second * r.reduce_ms, (2 * 9 * 2 / 3 + 9 + 5) * size * 4 / 1e6)
      near(r.unshard_share_of_copy, r.unshard_gb_per_second / r.copy_gb_per_second)
    end
  end)
end)

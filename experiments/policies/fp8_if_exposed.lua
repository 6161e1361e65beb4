-- SPDX-License-Identifier: Apache-2.0

--- FP8 for layers whose unshard does not hide: experts of a layer for which ranks have waited in
-- the last steps travel in half the bytes from then on, those of others as they are. Layouts are
-- static. What is waited for is measured, so that two runs may decide at other steps.

local policy = require 'neap.policy'

local Exposed = policy.define {
  name = 'fp8_if_exposed',
  params = {
    wait_ms = { default = 0.1, min = 0, doc = 'mean wait for a layer in a step that is too long' },
    steps = { default = 3, min = 1, integer = true, doc = 'steps in a row that it must be so' },
  },
}

function Exposed:precision(ctx)
  local waited = ctx.unshard_wait_ms and ctx.unshard_wait_ms > self.wait_ms
  self.row = waited and (self.row or 0) + 1 or 0
  if self.row >= self.steps then return { unshard = 'fp8' } end
end

function Exposed:save() return { row = self.row or 0 } end

function Exposed:restore(_, state) self.row = state.row end

return Exposed

-- SPDX-License-Identifier: Apache-2.0

--- FP8 once the loss falls slowly: what is rounded costs least where a training no longer changes
-- much, and early steps have their full precision. Layouts are static. One way: once in FP8, a
-- layer stays so.

local policy = require 'neap.policy'

local Flat = policy.define {
  name = 'fp8_when_flat',
  params = {
    window = { default = 8, min = 1, max = 16, integer = true, doc = 'steps whose mean loss is '
      .. 'compared with that of as many before' },
    fall = { default = 0.01, min = 0, doc = 'share that it must fall by for full precision' },
    kinds = { default = 'both', choices = { 'both', 'unshard', 'dispatch' },
      doc = 'what is in FP8' },
  },
}

local function mean(list, first, last)
  local sum = 0
  for i = first, last do sum = sum + list[i] end
  return sum / (last - first + 1)
end

function Flat:precision(ctx)
  local n, w = #ctx.losses, self.window
  if not self.flat and n >= 2 * w then
    self.flat = mean(ctx.losses, n - w + 1, n)
      > (1 - self.fall) * mean(ctx.losses, n - 2 * w + 1, n - w)
  end
  if not self.flat then return nil end
  return self.kinds == 'both' and 'fp8' or { [self.kinds] = 'fp8' }
end

function Flat:save() return { flat = self.flat or false } end

function Flat:restore(_, state) self.flat = state.flat end

return Flat

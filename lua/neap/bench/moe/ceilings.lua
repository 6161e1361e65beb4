-- SPDX-License-Identifier: Apache-2.0

--- What a machine can do at most: a dense bf16 product and a copy.
-- A GPU at its power limit lowers its clock as it gets hot. A few products on an idle card, the
-- figure that is usually quoted (burst), are no measure for what runs after seconds of work; so
-- beside() runs an action right after products that take about as long, and times both.

local lib = require 'neap.base.lib'
local device = require 'neap.engine.device'
local launcher = require 'neap.launcher'
local series = require 'neap.base.series'
local ops = require 'neap.engine.ops'
local tensor = require 'neap.engine.tensor'

local C = lib.C

local ceilings = {
  SIDE = 8192,   -- of the dense product
  COPY = 2 ^ 31, -- elements of the copy, 2 bytes each
}

local SEED = 1
local PATTERN = 4194301 -- random numbers that fill a large tensor again and again; a prime
local WARM_UP = 2
local IDLE = 0.5        -- seconds before a burst
local BURST = 5         -- products of a burst
local FEWEST = 4        -- products beside an action: the host's part is lost among them

--- Seconds of an action that nothing is enqueued before.
local function seconds_of(action)
  device.wait()
  local start = C.neap_clock()
  action()
  device.wait()
  return C.neap_clock() - start
end

--- A tensor filled with scale x normal numbers.
function ceilings.random_of(dtype, stream, scale, ...)
  local t = tensor.new(dtype, ...)
  local pattern = tensor.new(dtype, math.min(PATTERN, t.count)):normal(SEED, stream, 0, scale)
  for at = 0, t.count - 1, PATTERN do
    t:copy(pattern, math.min(PATTERN, t.count - at), at)
  end
  pattern:close()
  return t
end

--- The same in bf16.
function ceilings.random(...)
  return ceilings.random_of('bf16', ...)
end

--- Bytes per second, read and written, of a copy of so many bf16 elements: median of repeats.
function ceilings.copy(count, repeats)
  local from, to = ceilings.random(3, 1, count), tensor.new('bf16', count)
  local times = series.open()
  for i = 1, WARM_UP + repeats do
    local seconds = seconds_of(function() to:copy(from) end)
    if i > WARM_UP then times:add(seconds) end
  end
  from:close()
  to:close()
  return 2 * 2 * count / times:quantile(0.5)
end

-- ---- the dense product --------------------------------------------------------------------------

local Dense = {}
Dense.__index = Dense

--- side: of its square matrices.
function ceilings.dense(side)
  return setmetatable({
    flops = 2 * side ^ 3, a = ceilings.random(1, 1, side, side),
    b = ceilings.random(2, 1, side, side), c = tensor.new('bf16', side, side),
  }, Dense)
end

function Dense:close()
  for _, name in ipairs { 'a', 'b', 'c' } do self[name]:close() end
end

--- Operations per second of so many products.
function Dense:rate(count)
  local seconds = seconds_of(function()
    for _ = 1, count do ops.linear(self.a, self.b, self.c) end
  end)
  self.latest = count * self.flops / seconds
  return self.latest
end

--- Operations per second of a few products on a machine that was idle.
function Dense:burst()
  self:rate(WARM_UP)
  launcher.sleep(IDLE)
  return self:rate(BURST)
end

--- Seconds of an action right after products that take about as long (expected seconds), and
-- operations per second of those. After a first rate.
function Dense:beside(expected, action)
  local count = math.floor(expected * self.latest / self.flops + 0.5)
  local rate = self:rate(math.max(FEWEST, count))
  return seconds_of(action), rate
end

return ceilings

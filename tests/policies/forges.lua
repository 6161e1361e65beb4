-- Damages what it says to the rank: overwrites words of the memory that answers stand in, and
-- fields of the answer under way, as numbers drawn from a seed tell.
local ffi = require 'ffi'
local bits = require('neap.base.lib').C.neap_random_bits
local Forges = require('neap.policy').define {
  name = 'forges', plans_on = 'both',
  params = { seed = { default = 1, doc = 'of the damage' },
    hook = { default = 'plan', doc = 'that damages' } },
}

local count = 0

local function draw(self, most)
  count = count + 1
  return tonumber(bits(self.seed, 11, count) % most)
end

local VALUES = { 0, 1, 2, 3, 4, 5, 7, -1, -2, 2 ^ 31 - 1, -2 ^ 31, 1000, 65536 }

local function value(self)
  return VALUES[1 + draw(self, #VALUES)]
end

--- Words of the memory that is mapped from the second file of the channel.
local function answers()
  for line in io.lines '/proc/self/maps' do
    local first, last, access = line:match '^(%x+)%-(%x+) (%S+) .*memfd:neap%-worker'
    if access and access:match '^rw' then
      local bytes = tonumber(last, 16) - tonumber(first, 16)
      return ffi.cast('int32_t *', tonumber(first, 16)), bytes / 4
    end
  end
end

--- From now on an answer's words are damaged while it is written.
local function damage_answers(self)
  local copy = ffi.copy
  ffi.copy = function(to, from, ...) -- the text of a message is written last
    copy(to, from, ...)
    if tostring(ffi.typeof(to)):find '512' then
      local words = ffi.cast('int32_t *', ffi.cast('char *', to) - 32)
      for _ = 1, 1 + draw(self, 3) do words[draw(self, 8 + 8)] = value(self) end
    end
  end
end

local function damage(self)
  local memory, words = answers()
  for _ = 1, draw(self, 4) do
    local near = draw(self, 2) == 0 and math.min(64, words) or words
    memory[draw(self, near)] = value(self)
  end
  if count < 40 and draw(self, 2) == 0 then damage_answers(self) end
end

function Forges:plan(ctx)
  if self.hook == 'plan' then damage(self) end
  return ctx.previous
end

function Forges:split()
  if self.hook == 'split' then damage(self) end
  return 'even'
end

return Forges
-- SPDX-License-Identifier: Apache-2.0

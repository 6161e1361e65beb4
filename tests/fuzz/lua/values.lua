-- SPDX-License-Identifier: Apache-2.0

--- Values made of an input's bytes: any table that a user's file could return.

local ffi = require 'ffi'

local values = {}

local Reader = {}
Reader.__index = Reader

function values.reader(text)
  return setmetatable({ text = text, at = 1 }, Reader)
end

function Reader:left()
  return #self.text - self.at + 1
end

function Reader:byte()
  local byte = self.text:byte(self.at) or 0
  self.at = self.at + 1
  return byte
end

function Reader:string()
  local length = self:byte() % 32
  local part = self.text:sub(self.at, self.at + length - 1)
  self.at = self.at + length
  return part
end

local SPECIAL = { math.huge, -math.huge, 0 / 0, -0.0, 2 ^ 31, 2 ^ 32, 2 ^ 53, 1e308, 5e-324, 0.5,
  -1, 1e18 }

--- Any double but NaNs, whose bits LuaJIT would take for other values; SPECIAL has one.
function Reader:double()
  local number = ffi.new 'double[1]'
  ffi.copy(number, (self.text:sub(self.at, self.at + 7) .. ('\0'):rep(8)):sub(1, 8), 8)
  self.at = self.at + 8
  local high = bit.band(ffi.cast('uint32_t *', number)[1], 0x7ff00000)
  return high == 0x7ff00000 and 0 or number[0]
end

--- names: keys that tables have more often than by chance.
function Reader:table(names, depth)
  local result = {}
  for _ = 1, self:byte() % 16 do
    if self:left() < 1 then break end
    local kind = self:byte()
    local key = kind < 160 and names[kind % #names + 1] or kind < 224 and #result + 1
      or self:value(names, depth - 1)
    if key ~= nil and key == key then result[key] = self:value(names, depth - 1) end
  end
  return result
end

function Reader:value(names, depth)
  local kind = self:byte() % 16
  if kind < 5 then return self:byte() end
  if kind == 5 then return SPECIAL[self:byte() % #SPECIAL + 1] end
  if kind == 6 then return self:double() end
  if kind < 9 then return self:string() end
  if kind == 9 then return self:byte() % 2 == 0 end
  if kind == 10 then return print end
  if kind == 11 then return ffi.new('int64_t', self:byte()) end
  if kind == 12 then return names[self:byte() % #names + 1] end
  return depth > 0 and self:table(names, depth) or nil
end

return values

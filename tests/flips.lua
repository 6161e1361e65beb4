-- SPDX-License-Identifier: Apache-2.0

--- Changes a checkpoint in random places, one at a time, and looks whether it is found: one bit, or
-- the length. neap lua tests/flips.lua CHECKPOINT HOW_MANY SEED

local errors = require 'neap.base.errors'
local folder = require 'neap.train.checkpoint_folder'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

local path, count, seed = ...

local function read(name)
  local file = assert(io.open(name, 'rb'))
  local body = file:read '*a'
  file:close()
  return body
end

local function write(name, body)
  local file = assert(io.open(name, 'wb'))
  file:write(body)
  assert(file:close())
end

local drawn = 0

--- A whole number from 0 to most - 1.
local function draw(most)
  drawn = drawn + 1
  return math.floor(lib.C.neap_random_uniform(tonumber(seed), 0, drawn) * most)
end

--- Reads all of it, as neap checkpoint check does. Raises.
local function check()
  local manifest = folder.manifest(path)
  for rank = 0, manifest.ranks - 1 do
    local file = folder.open(manifest, rank)
    file:check()
    file:close()
  end
end

local function flipped(body)
  local at = draw(#body)
  return body:sub(1, at) .. string.char(bit.bxor(body:byte(at + 1), 2 ^ draw(8)))
    .. body:sub(at + 2), ('a bit of byte %d'):format(at)
end

local function of_other_length(body)
  if draw(2) == 0 then
    local length = draw(#body)
    return body:sub(1, length), ('cut to %d bytes'):format(length)
  end
  local more = 1 + draw(64)
  return body .. body:sub(1, more), ('%d bytes longer'):format(more)
end

local names, found, missed = {}, 0, 0
for _, name in ipairs(launcher.list(path)) do
  if not name:match '^%.' then names[#names + 1] = name end
end
table.sort(names)
check()
for _ = 1, tonumber(count) do
  local name = names[1 + draw(#names)]
  local body = read(path .. '/' .. name)
  local change = draw(4) == 0 and of_other_length or flipped
  local damaged, what = change(body)
  write(path .. '/' .. name, damaged)
  local ok, err = pcall(check)
  if not ok and errors.code(err) == 'FORMAT' then
    found = found + 1
  else
    missed = missed + 1
    print(('%s, %s: %s'):format(name, what, ok and 'not found' or errors.text(err)))
  end
  write(path .. '/' .. name, body)
end
check()
print(('%d flips found, %d not'):format(found, missed))

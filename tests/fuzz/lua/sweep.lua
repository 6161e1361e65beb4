-- SPDX-License-Identifier: Apache-2.0

--- Sweeps: words of the command line, and tables of sweep files; what is accepted is a grid whose
-- runs are all different, of as many as its axes say.

local grid = require 'neap.sweep.grid'
local judge = require 'judge'
local lib = require 'neap.base.lib'
local sweep = require 'neap.sweep'
local values = require 'values'

local NAMES = { 'name', 'doc', 'kind', 'script', 'fixed', 'grid', 'seed', 'policy', 'policies',
  'steps', 'ffn' }
local COMMANDS = { run = {}, replay = {}, simulate = {} }
local MOST = 1000 -- cells that are looked at

local function check(axes)
  local ok, cells = judge({ USAGE = true }, grid.cells, axes)
  if not ok then return end
  local count = 1
  for _, name in ipairs(lib.sorted_keys(axes)) do count = count * #axes[name] end
  if #cells ~= count then error(('%d runs of %d'):format(#cells, count)) end
  for i = 1, math.min(#cells, MOST) do
    for _, pair in ipairs(cells[i]) do
      if pair[2] == nil then error(pair[1] .. ' has no value') end
    end
  end
end

local function words_of(text)
  local words = {}
  for line in text:gmatch '[^\n]+' do words[#words + 1] = line end
  local ok, axes = judge({ USAGE = true }, grid.words, words)
  if ok then check(axes) end
end

return function(text)
  if text:byte() ~= 0 then return words_of(text) end
  local reader = values.reader(text:sub(2))
  local loaded = reader:value(NAMES, 4)
  local ok, found = judge({ USAGE = true }, sweep.define, 'sweep.lua', loaded, COMMANDS)
  if ok then check(found.axes) end
end

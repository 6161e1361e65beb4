-- SPDX-License-Identifier: Apache-2.0

--- Loads that others have recorded, in formats that Lua reads: an error with a message, or loads
-- that a trace can hold.

local ffi = require 'ffi'
local formats = require 'neap.replay.formats'
local judge = require 'judge'

local REFUSED = { FORMAT = true, USAGE = true }
local PATH = os.tmpname()
local ASKED = { 'router-trace', 'sglang-csv', 'eplb', 'routed-experts', 'counts', 'loads' }
local MOST = 2 ^ 31 - 1

local function check(loads)
  local load = ffi.new('int64_t[?]', loads.ranks * loads.experts)
  for step = 0, loads.steps - 1 do
    for layer = 0, loads.layers - 1 do
      loads:load(step, layer, load)
      for i = 0, loads.ranks * loads.experts - 1 do
        local tokens = tonumber(load[i])
        if tokens < 0 or tokens > MOST then error(('load %s'):format(tokens)) end
      end
    end
  end
end

--- The first byte says which format is asked for, and whether there are ranks.
return function(input)
  local how = input:byte() or 0
  local file = io.open(PATH, 'wb')
  file:write(input:sub(2))
  file:close()
  local format = ASKED[how % 8]
  local head = input:sub(2, 4097)
  local by_python = head:find '^PAR1' or head:find '^PK' or head:find '"schema_version"'
  if not format and by_python then return end
  local options = { format = format, ranks = how >= 128 and 2 or nil, step_tokens = 3 }
  local ok, loads = judge(REFUSED, formats.read, { PATH }, options)
  if ok and loads then judge(REFUSED, check, loads) end
end

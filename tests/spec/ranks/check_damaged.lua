-- SPDX-License-Identifier: Apache-2.0

--- One rank of check_spec.lua, as main/check.lua, with an engine that is wrong where there is more
-- than one rank: the tokens of the last slot are not reduced.

local shards = require 'neap.engine.shards'
local lib = require 'neap.base.lib'

local _, ranks = ...
if ranks > 1 then
  local start = shards.Shards.reduce_start
  function shards.Shards.reduce_start(store, layout, gradients, slot_tokens, ...)
    local slots = layout.topology.slots
    local tokens = lib.ffi.new('int64_t[?]', slots)
    lib.ffi.copy(tokens, slot_tokens, slots * 8)
    tokens[slots - 1] = 0
    return start(store, layout, gradients, tokens, ...)
  end
end

return assert(loadfile(lib.home .. '/lua/neap/main/check.lua'))(...)

-- SPDX-License-Identifier: Apache-2.0

--- How layers' experts and tokens travel in the steps of a training: as the recipe says, or by the
-- policy's hook precision (precision.lua), which rank 0 asks; and what of it is measured.

local ffi = require 'ffi'

local precision = require 'neap.policy.precision'
local runtime = require 'neap.policy.runtime'
local series = require 'neap.base.series'

local travel = {}

local Travel = {}
Travel.__index = Travel

local KINDS = { 'unshard', 'dispatch' }

--- layers; asked: { unshard =, dispatch = }, unless the policy says otherwise; adapts: it has the
-- hook; comm, or nil for one rank; worker: on rank 0; fault(message); layout(layer): the active
-- one.
function travel.open(options)
  local self = setmetatable({ layers = options.layers, comm = options.comm, of = {},
    adapts = options.adapts, worker = options.worker, fault = options.fault,
    layout = options.layout, shares = {} }, Travel)
  local asked = options.asked
  for layer = 0, self.layers - 1 do
    self.of[layer] = { unshard = asked.unshard, dispatch = asked.dispatch }
  end
  if self.adapts or asked.unshard == 'fp8' or asked.dispatch == 'fp8' then
    for _, kind in ipairs(KINDS) do self.shares['fp8_' .. kind] = series.open() end
  end
  return self
end

--- Rank 0: asks for a layer; after a fault it travels as before.
local function ask(self, step, layer, news)
  local before = self.of[layer]
  local outcome, result = self.worker:precision(step, layer, before,
    precision.pack(news.losses, news.count, news.wait_ms and news.wait_ms[layer]),
    self.layout(layer):array())
  if outcome ~= runtime.FAULT then return result end
  self.fault(result)
  return before
end

--- Collective: what rank 0's policy says for all layers.
local function decide(self, step, news)
  local codes = ffi.new('int32_t[?]', 2 * self.layers)
  for layer = 0, self.worker and self.layers - 1 or -1 do
    local value = ask(self, step, layer, news)
    for i, kind in ipairs(KINDS) do
      codes[2 * layer + i - 1] = value[kind] == 'fp8' and 1 or 0
    end
  end
  if self.comm then self.comm:broadcast(codes, 8 * self.layers) end
  for layer = 0, self.layers - 1 do
    for i, kind in ipairs(KINDS) do
      self.of[layer][kind] = codes[2 * layer + i - 1] == 1 and 'fp8' or 'dtype'
    end
  end
end

--- Collective, where a step begins: { [layer] = { unshard =, dispatch = } }. news: as
-- Session:travel takes it.
function Travel:step(step, news)
  if self.adapts then decide(self, step, news) end
  for layer = 0, self.layers - 1 do
    for _, kind in ipairs(KINDS) do
      local share = self.shares['fp8_' .. kind]
      if share then share:add(self.of[layer][kind] == 'fp8' and 1 or 0) end
    end
  end
  return self.of
end

return travel

-- SPDX-License-Identifier: Apache-2.0

--- JSON as the store keeps it: a text is refused with a message, or its value comes back when it is
-- packed; results and facts of runs that hold it can be shown and compared.

local compare = require 'neap.runs.compare'
local entries = require 'neap.report.entries'
local judge = require 'judge'
local json = require 'neap.base.json'
local metrics = require 'neap.runs.metrics'
local kept = require 'neap.runs.kept'

local FORMAT = { FORMAT = true }

local function same(a, b)
  if type(a) ~= 'table' or type(b) ~= 'table' then return a == b or (a ~= a and b ~= b) end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

--- A text that unpack takes packs to one that it takes too, of the same value.
local function back_and_forth(text)
  local value = json.unpack(text)
  if value == nil then return end
  local ok, packed = pcall(json.pack, value) -- not all tables can be kept
  if ok and not same(json.unpack(packed), value) then error('another value: ' .. packed) end
end

local function show(text)
  local ok, summary = judge(FORMAT, kept.summary, text, 'result 1')
  if not ok then return end
  local row = { policy = 'static', seed = 1, run = 1, id = 1, context = 'x', summary = summary }
  compare.policies({ row }, {})
  summary.policy, summary.seed = 'static', 1
  local entry = entries.from_row(summary, 'run')
  metrics.cells('report', { summary })
  entries.group { entry }
  json.encode(summary)
end

return function(text)
  back_and_forth(text)
  show(text)
  judge(FORMAT, kept.facts, text, 'run 1: machine')
end

-- SPDX-License-Identifier: Apache-2.0

--- What the store keeps as JSON, read: summaries of results, and facts of runs. Another program may
-- have written them, or a disk have damaged them: what is not as it should be raises FORMAT, naming
-- where it stands.

local json = require 'neap.base.json'
local lib = require 'neap.base.lib'
local metrics = require 'neap.runs.metrics'

local kept = {}

local function is(kind)
  return function(value) return value == nil or type(value) == kind end
end

local function list_of(kind)
  return function(value)
    if value == nil then return true end
    if type(value) ~= 'table' then return false end
    local count = 0
    for _ in pairs(value) do count = count + 1 end
    for i = 1, count do
      if type(value[i]) ~= kind then return false end
    end
    return true
  end
end

-- Fields of a summary that are no metrics.
local FIELDS = { ideal_ms = is 'number', ideal_tokens_per_second = is 'number', seed = is 'number',
  steps = is 'number', ranks = is 'number', step_seconds = is 'number', policy = is 'string',
  name = is 'string', in_force = is 'number', cluster = is 'string', model = is 'string',
  plans_on = is 'string', trace = is 'string',
  digest = is 'string', losses = list_of 'number', messages = list_of 'string' }

--- Whether a value, if it is there, is a table that has a number, or nothing, under a key; earlier
-- versions had a number itself.
local function fits(value, path)
  if #path == 1 or type(value) == 'number' then return is 'number'(value) end
  return value == nil or type(value) == 'table' and is 'number'(value[path[2]])
end

--- The field of a summary that is not what it should be, or nil.
local function wrong_field(summary)
  for _, name in ipairs(lib.sorted_keys(FIELDS)) do
    if not FIELDS[name](summary[name]) then return name end
  end
  for _, metric in ipairs(metrics.list) do
    local path = metric.path or { metric.name }
    if not fits(summary[path[1]], path) then return path[1] end
  end
end

local function decode(text, where)
  local value, _, why = json.decode(text)
  if type(value) ~= 'table' then
    lib.raise('FORMAT', ('store: %s: is no JSON object: %s'):format(where, why or 'another value'))
  end
  return value
end

--- The row of a result (metrics.lua) that the store has as text, in today's shape. where: names it.
function kept.summary(text, where)
  local summary = decode(text, where)
  local wrong = wrong_field(summary)
  if wrong then
    lib.raise('FORMAT', ("store: %s: field '%s' is not what it should be"):format(where, wrong))
  end
  return metrics.upgrade(summary)
end

--- A table of facts (parameters, machine, libraries, corpora).
function kept.facts(text, where)
  return decode(text, where)
end

return kept

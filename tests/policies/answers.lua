-- Answers wrongly, in the way that its parameter says.
local Answers = require('neap.policy').define {
  name = 'answers', params = { kind = { default = 'missing', doc = 'which mistake' } },
}
local WRONG = {
  missing = function(list) for i in ipairs(list) do list[i] = 0 end return list end,
  short = function(list) list[#list] = nil return list end,
  high = function(list) list[3] = 99 return list end,
  low = function(list) list[3] = -1 return list end,
  nan = function(list) list[3] = 0 / 0 return list end,
  text = function(list) list[3] = 'three' return list end,
  half = function(list) list[3] = 1.5 return list end,
  huge = function(list) list[3] = 2 ^ 40 return list end,
  number = function() return 5 end,
  none = function() return nil end,
  empty = function(_, ctx) return ctx:layout() end,
  place = function(_, ctx) return ctx:layout():place(0, 77) end,
  full = function(_, ctx) return ctx:layout():place(0, 1):place(0, 2):place(0, 3) end,
}
function Answers:plan(ctx)
  local list = {}
  for i = 1, ctx.topology.slots do list[i] = (i - 1) % ctx.topology.experts end
  return WRONG[self.kind](list, ctx)
end
return Answers
-- SPDX-License-Identifier: Apache-2.0

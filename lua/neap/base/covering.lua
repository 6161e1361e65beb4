-- SPDX-License-Identifier: Apache-2.0

--- Few combinations of many choices, such that every two values of different factors meet in one of
-- them: greedily, after the AETG system (Cohen, Dalal, Fredman, Patton 1997), without chance.
--
--   covering.rows { { 'a', 'b', 'c' }, { 1, 2 }, { true, false } }  -- a list of { 'a', 1, true } …

local covering = {}

--- All pairs of places in different factors that no row has yet: set[f][i][g][j], f < g.
local function all_pairs(factors)
  local set, list = {}, {}
  for f = 1, #factors do
    set[f] = {}
    for i = 1, #factors[f] do
      set[f][i] = {}
      for g = f + 1, #factors do
        set[f][i][g] = {}
        for j = 1, #factors[g] do
          set[f][i][g][j] = true
          list[#list + 1] = { f, i, g, j }
        end
      end
    end
  end
  return set, list
end

local function missing(set, f, i, g, j)
  if f > g then f, i, g, j = g, j, f, i end
  return set[f][i][g][j]
end

--- The place in a factor that meets most of what is missing; of equals, the one after turn.
local function best(set, factors, row, f, turn)
  local found, most = nil, -1
  for k = 0, #factors[f] - 1 do
    local i, gain = (turn + k) % #factors[f] + 1, 0
    for g = 1, #factors do
      if row[g] and missing(set, f, i, g, row[g]) then gain = gain + 1 end
    end
    if gain > most then found, most = i, gain end
  end
  return found
end

local function strike(set, row)
  for f = 1, #row do
    for g = f + 1, #row do set[f][row[f]][g][row[g]] = false end
  end
end

--- factors: lists of values. Returns lists of one value of each factor, which cover all pairs.
function covering.rows(factors)
  local set, list = all_pairs(factors)
  local rows = {}
  for _, pair in ipairs(list) do
    if missing(set, unpack(pair)) then
      local row = { [pair[1]] = pair[2], [pair[3]] = pair[4] }
      for f = 1, #factors do row[f] = row[f] or best(set, factors, row, f, #rows) end
      strike(set, row)
      local values = {}
      for f, i in ipairs(row) do values[f] = factors[f][i] end
      rows[#rows + 1] = values
    end
  end
  return rows
end

--- All combinations, the last factor changing fastest.
function covering.product(factors)
  local rows = { {} }
  for _, factor in ipairs(factors) do
    local longer = {}
    for _, row in ipairs(rows) do
      for _, value in ipairs(factor) do
        local copy = { unpack(row) }
        copy[#copy + 1] = value
        longer[#longer + 1] = copy
      end
    end
    rows = longer
  end
  return rows
end

return covering

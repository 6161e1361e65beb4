-- SPDX-License-Identifier: Apache-2.0

--- Fits a few positive numbers so that predictions come near what was measured.
--
--   fit.solve(start, function(values) return predicted end, measured)

local fit = {}

local ROUNDS = 12
local STEP = 0.02   -- of a logarithm, for slopes
local PULL = 0.03   -- how much a factor of e away from the start weighs, against one off by e
local FARTHEST = 1  -- of a logarithm, in one round

--- Solves A x = b (A: list of rows, symmetric and positive) by elimination.
local function solve_linear(a, b)
  local n = #b
  for i = 1, n do
    for j = i + 1, n do
      local factor = a[j][i] / a[i][i]
      for k = i, n do a[j][k] = a[j][k] - factor * a[i][k] end
      b[j] = b[j] - factor * b[i]
    end
  end
  for i = n, 1, -1 do
    for k = i + 1, n do b[i] = b[i] - a[i][k] * b[k] end
    b[i] = b[i] / a[i][i]
  end
  return b
end

--- Logarithms of predicted / measured where the logarithms of the values have moved by shift.
local function misses(start, shift, predict, measured)
  local values, list = {}, {}
  for i, value in ipairs(start) do values[i] = value * math.exp(shift[i]) end
  for i, seconds in ipairs(predict(values)) do list[i] = math.log(seconds / measured[i]) end
  return list, values
end

local function moved(shift, i, by)
  local list = { unpack(shift) }
  list[i] = list[i] + by
  return list
end

--- The values, from those at start on, for which predict(values) (a list) is nearest to measured,
-- in ratios; what the measurements do not tell stays near the start (Gauss-Newton, damped by a weak
-- prior).
function fit.solve(start, predict, measured)
  local shift, n = {}, #start
  for i = 1, n do shift[i] = 0 end
  for _ = 1, ROUNDS do
    local base = misses(start, shift, predict, measured)
    local slopes, a, b = {}, {}, {}
    for i = 1, n do
      local there = misses(start, moved(shift, i, STEP), predict, measured)
      slopes[i] = {}
      for k = 1, #base do slopes[i][k] = (there[k] - base[k]) / STEP end
    end
    for i = 1, n do
      a[i], b[i] = {}, -PULL * PULL * shift[i]
      for j = 1, n do
        a[i][j] = i == j and PULL * PULL or 0
        for k = 1, #base do a[i][j] = a[i][j] + slopes[i][k] * slopes[j][k] end
      end
      for k = 1, #base do b[i] = b[i] - slopes[i][k] * base[k] end
    end
    for i, by in ipairs(solve_linear(a, b)) do
      shift[i] = shift[i] + math.max(-FARTHEST, math.min(FARTHEST, by))
    end
  end
  local _, values = misses(start, shift, predict, measured)
  return values
end

return fit

-- SPDX-License-Identifier: Apache-2.0

--- What comparisons rest on: means of paired differences with an interval, and warnings.
--
--   local s = statistics.paired({ -0.02, -0.03, … })
--   s.mean, s.low, s.high, s.count, s.outliers, s.noisy

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local statistics = {}

local RESAMPLES = 6000
-- Noise of resampled values: 1 / n of the variance makes up for what resamples vary too little, the
-- rest for their tails, which are lighter than those of samples where n is small.
local SMOOTH = 2.2
local STREAM = 0x626f6f74 -- of random numbers, so that an interval is the same every time
local OUTLIER = 5         -- scaled median deviations from the median

--- Fewest pairs from which a winner may be called.
statistics.FEWEST = 5

function statistics.mean(values)
  local sum = 0
  for i = 1, #values do sum = sum + values[i] end
  return sum / #values
end

local function deviation(values, mean)
  local sum = 0
  for i = 1, #values do sum = sum + (values[i] - mean) ^ 2 end
  return math.sqrt(sum / (#values - 1))
end

local function median(values)
  local sorted = { unpack(values) }
  table.sort(sorted)
  local half = #sorted / 2
  return (sorted[math.ceil(half)] + sorted[math.floor(half) + 1]) / 2
end

local T_POINTS = { 12.706, 4.303, 3.182, 2.776 } -- of few degrees of freedom

--- 97.5 % point of Student's t (Cornish and Fisher's expansion; exact values where it is poor).
local function t_point(freedom)
  local z = 1.959964
  return T_POINTS[freedom] or z + (z ^ 3 + z) / (4 * freedom)
    + (5 * z ^ 5 + 16 * z ^ 3 + 3 * z) / (96 * freedom ^ 2)
    + (3 * z ^ 7 + 19 * z ^ 5 + 17 * z ^ 3 - 15 * z) / (384 * freedom ^ 3)
end

--- Share of a standard normal variable below -x (Abramowitz and Stegun 26.2.17).
local function tail(x)
  local t = 1 / (1 + 0.2316419 * x)
  local series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978
    + t * 1.330274429))))
  return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * series
end

local draws = {}

--- Which of count values every resample draws, and standard normal noise for each: the same for all
-- samples of this size.
local function draws_of(count)
  local total = RESAMPLES * count
  if draws[count] then return draws[count] end
  local found = { picks = ffi.new('int32_t[?]', total), noise = ffi.new('double[?]', total) }
  for i = 0, total - 1 do
    found.picks[i] = 1 + math.floor(count * C.neap_random_uniform(count, STREAM, i))
    found.noise[i] = C.neap_random_normal(count, STREAM + 1, i)
  end
  draws[count] = found
  return found
end

--- Means of resamples, sorted. Every drawn value gets normal noise of the given size.
local function resampled_means(values, noise)
  local count, means, drawn = #values, {}, draws_of(#values)
  for b = 1, RESAMPLES do
    local sum, first = 0, (b - 1) * count
    for i = first, first + count - 1 do
      sum = sum + values[drawn.picks[i]] + noise * drawn.noise[i]
    end
    means[b] = sum / count
  end
  table.sort(means)
  return means
end

--- 95 % interval of the mean by the smoothed bootstrap (Efron 1979; Silverman and Young 1987), at
-- levels that Student's t gives, since with few values plain percentiles are too narrow (Hesterberg
-- 2015). Deterministic. The values themselves if they are all the same; nil for a single one.
function statistics.interval(values)
  if #values < 2 then return nil end
  local mean = statistics.mean(values)
  local spread = deviation(values, mean)
  if spread <= 1e-12 * math.abs(mean) then return mean, mean end
  local means = resampled_means(values, spread * math.sqrt(SMOOTH / #values))
  local cut = math.max(1, math.floor(tail(t_point(#values - 1)) * RESAMPLES))
  return means[cut], means[RESAMPLES + 1 - cut]
end

--- Places of values that lie far from the others (by the median deviation).
function statistics.outliers(values)
  local found = {}
  if #values < statistics.FEWEST then return found end
  local middle, distances = median(values), {}
  for i = 1, #values do distances[i] = math.abs(values[i] - middle) end
  local scale = 1.4826 * median(distances)
  for i = 1, #values do
    if distances[i] > OUTLIER * scale and distances[i] > 1e-9 * math.abs(middle) then
      found[#found + 1] = i
    end
  end
  return scale > 0 and found or {}
end

--- Paired differences (a list of numbers): mean, interval (low, high), count, outliers (places);
-- noisy: the interval is wider than the mean difference is large.
function statistics.paired(differences)
  local mean = statistics.mean(differences)
  local low, high = statistics.interval(differences)
  return {
    mean = mean, low = low, high = high, count = #differences,
    outliers = statistics.outliers(differences),
    noisy = low ~= nil and (high - low) / 2 > math.abs(mean) and high > low,
  }
end

return statistics

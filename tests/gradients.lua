-- SPDX-License-Identifier: Apache-2.0

--- Finite differences for specs: dofile(lib.home .. '/tests/gradients.lua').

local tensor = require 'neap.engine.tensor'

local gradients = {}

local STEP = 1e-5

--- A float64 tensor of random normals; another stream every call.
local stream = 0
function gradients.random(...)
  stream = stream + 1
  return tensor.new('f64', ...):normal(7, stream, 0, 1)
end

--- A random I32 vector of n ids below limit.
function gradients.random_ids(n, limit)
  local ids, noise = tensor.new('i32', n), gradients.random(n)
  for i = 0, n - 1 do
    ids:data()[i] = math.floor(math.abs(noise:data()[i]) * 1e6) % limit
  end
  return ids
end

--- Sum over elements of a * b.
function gradients.dot(a, b)
  local sum = 0
  for i = 0, a.count - 1 do
    sum = sum + a:data()[i] * b:data()[i]
  end
  return sum
end

local function difference(f, x, i)
  local old = x:data()[i]
  x:data()[i] = old + STEP
  local above = f()
  x:data()[i] = old - STEP
  local below = f()
  x:data()[i] = old
  return (above - below) / (2 * STEP)
end

--- The largest error, relative to the largest gradient, between the gradient that f's owner claims
-- for tensor x and central differences of f() (a number) in each element of x; every nth element
-- with stride n.
function gradients.error(f, x, claimed, stride)
  local worst, largest = 0, 1e-3
  for i = 0, x.count - 1, stride or 1 do
    local expected = difference(f, x, i)
    largest = math.max(largest, math.abs(expected))
    local miss = math.abs(expected - claimed:data()[i])
    worst = miss == miss and math.max(worst, miss) or math.huge -- a NaN is as wrong as can be
  end
  return worst / largest
end

--- Asserts that every one of {x = …, claimed = …} agrees within 1e-6 (or tolerance).
function gradients.check(f, pairs_of, tolerance)
  for i, pair in ipairs(pairs_of) do
    local miss = gradients.error(f, pair[1], pair[2])
    if miss > (tolerance or 1e-6) then
      error(('gradient %d is off by %g'):format(i, miss), 2)
    end
  end
end

return gradients

-- SPDX-License-Identifier: Apache-2.0

--- Spans of steps, measured and simulated: how many times the seconds of op_cost.lua a span takes
-- on this machine, and how much exchanges slow computation.
--
--   machine.spans = spans.factors(measured, predicted)
--   machine.interference = spans.interference(alone, beside, machine.latency)

local series = require 'neap.base.series'
local op_cost = require 'neap.simulate.op_cost'

local spans = {}

local LEAST = 1e-6 -- seconds of a span that tell anything

--- Seconds of spans of the compute stream by title, mean over ranks and median over summaries
-- (profile/breakdown.lua), and of waits, as 'wait for STREAM'; 'in no span' is the rest of a step.
function spans.of(summaries)
  local list, seconds = {}, {}
  local function add(title, value)
    list[title] = list[title] or series.open()
    list[title]:add(value)
  end
  for _, summary in ipairs(summaries) do
    for _, row in ipairs(summary.compute) do
      add(row.name == 'step' and 'in no span' or row.name, row.mean)
    end
    for _, row in ipairs(summary.exposed) do add('wait for ' .. row.name, row.mean) end
  end
  list.wait = nil -- the sum of waits
  for title, values in pairs(list) do
    for _ = values.count + 1, #summaries do values:add(0) end
    seconds[title] = values:quantile(0.5)
  end
  return seconds
end

--- Factors of a machine's spans: of every span, measured seconds of all steps together / predicted.
-- measured, predicted: lists of what spans.of gives, a pair for each training.
function spans.factors(measured, predicted)
  local factors = {}
  for _, title in ipairs(op_cost.spans) do
    local got, said = 0, 0
    for i = 1, #measured do
      got, said = got + (measured[i][title] or 0), said + (predicted[i][title] or 0)
    end
    if got > LEAST and said > LEAST then factors[title] = got / said end
  end
  return factors
end

--- Seconds in which spans of experts, of the backward or not, and exchanges of a stream run at
-- once, mean over ranks. ranks: spans of each. latency: seconds of an exchange before it moves.
local function overlap(ranks, backward, stream, latency)
  local sum = 0
  for _, list in ipairs(ranks) do
    for _, a in ipairs(list) do
      if a.stream == 'compute' and a.name == 'expert' and (a.phase == 'backward') == backward then
        for _, b in ipairs(list) do
          if b.stream == stream then
            local moves = b.begin + latency
            sum = sum + math.max(0, math.min(a.finish, b.finish) - math.max(a.begin, moves))
          end
        end
      end
    end
  end
  return sum / #ranks
end

--- The share by which work takes longer beside an exchange, if seconds of them that ran at once
-- made it last so much longer: work is done there at 1 / (1 + share).
local function share_of(longer, together)
  if together < LEAST or longer <= 0 then return nil end
  return longer < 0.9 * together and longer / (together - longer) or 9
end

--- Interference of unshards and reduces with experts, from the same training without overlap
-- (alone) and with it (beside): { spans = of spans.of, ranks = the spans of a step }. The forward
-- meets unshards, the backward both. latency: of an exchange.
function spans.interference(alone, beside, latency)
  local function longer(title)
    return (beside.spans[title] or 0) - (alone.spans[title] or 0)
  end
  local function together(backward, stream)
    return overlap(beside.ranks, backward, stream, latency)
      - overlap(alone.ranks, backward, stream, latency)
  end
  local unshard = share_of(longer 'expert', together(false, 'unshard'))
  local lost = unshard and together(true, 'unshard') * unshard / (1 + unshard) or 0
  local reduce = share_of(longer 'expert backward' - lost, together(true, 'reduce'))
  return { compute = { unshard = unshard, reduce = reduce } }
end

return spans

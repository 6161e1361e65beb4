-- SPDX-License-Identifier: Apache-2.0

--- Whose routing is simulated, as users say it.
--
--   routing.describe('later', 'mixtral-8x7b-e8k2')    -- { load =, kind =, text = }

local errors = require 'neap.base.errors'
local lib = require 'neap.base.lib'
local models = require 'neap.simulate.models'
local synth = require 'neap.engine.synth'

local routing = {}

--- Parameters of synthetic routing (engine/synth.lua) that were fitted on published counts of a
-- training without a loss for balance, of top-4 of 16 experts, in micro-batches 1 to 9 and 20 to 29
-- (experiments/paper/fit.lua).
routing.fitted = {
  first = { micro = 5, sigma = 1.03, rho = 0.989 },  -- 1.62 static
  last = { micro = 24.5, sigma = 2.35, rho = 0.997 }, -- 1.84 static, 1.21 LAER
}

-- Routing grows more skewed with every micro-batch: the deviation sigma is taken to grow by as much
-- as between these counts. The published step times were taken in micro-batches 40 to 140.
local AT = { last = routing.fitted.last.micro, timed = 40, middle = 90 }

--- Words that describe takes; later is timed.
routing.words = { 'chosen', 'counted', 'last', 'timed', 'later', 'middle', 'balanced' }

--- Parameters of a kind's routing, 'e8k2' or 'e16k4'; when:
--   counted  the mean balance of all counts of the kind
--   last     as in the last counts of e16k4; that of e8k2, whose later counts nobody has published,
--            grows in proportion, and the rest of what a micro-batch changes (1 - rho) shrinks so
--   timed    as in the first micro-batch that was timed: the least that goes beyond the counts
--   middle   as in the middle of those, if sigma goes on growing
-- Raises USAGE.
-- : string, string -> table
function routing.load(kind, when)
  local own, first, last = synth.presets[kind], routing.fitted.first, routing.fitted.last
  if when == 'counted' then return { sigma = own.sigma, tau = own.tau, rho = own.rho } end
  if not AT[when] then
    errors.usage("unknown routing '%s'; there are counted, %s", tostring(when),
      table.concat(lib.sorted_keys(AT), ', '))
  end
  local slope = (last.sigma - first.sigma) / (last.micro - first.micro)
  local grown = first.sigma + slope * (AT[when] - first.micro)
  local sigma = kind == 'e16k4' and grown or own.sigma * grown / first.sigma
  local still = (1 - last.rho) / (1 - first.rho)
  return { sigma = math.min(10, sigma), tau = own.tau, rho = 1 - (1 - own.rho) * still }
end

--- The kind of published counts that a model is taken to be of: top-2 of 8 is one of its own.
local function kind_of(m)
  return m.experts == 8 and m.top_k == 2 and 'e8k2' or 'e16k4'
end

local function named(text, m)
  if text == 'later' then text = 'timed' end
  return (text == 'counted' or AT[text]) and routing.load(kind_of(m), text) or nil
end

local function is_same(a, b)
  return a.sigma == b.sigma and a.tau == b.tau and a.rho == b.rho
end

local function numbers(load)
  return ('deviation %.3g, noise %.3g, correlation %.4g'):format(load.sigma, load.tau, load.rho)
end

--- sigma=…,tau=…,rho=… as a table, with what it leaves out from another one; nil for other texts.
local function parse(text, base)
  if not text:find '=' then return nil end
  local load = { sigma = base.sigma, tau = base.tau, rho = base.rho }
  for item in text:gmatch '[^,]+' do
    local name, value = item:match '^(%a+)=(.*)$'
    if not load[name or ''] or not tonumber(value) then
      errors.usage("routing: '%s' in '%s'; a field is sigma, tau or rho = a number", item, text)
    end
    load[name] = tonumber(value)
  end
  return load
end

local function name_of(text, load, m)
  if text:find '=' then return 'as given' end
  if text ~= 'chosen' then return text end
  return is_same(load, routing.load(kind_of(m), 'counted')) and 'counted' or "the model's"
end

--- text: one of words, or sigma=…,tau=…,rho=… (engine/synth.lua; what is left out is the model's).
-- model: as models.describe takes it. trace: path of recorded routing that is taken where the
-- routing is chosen, or nil. Returns load (of models.describe, nil: the model's), kind (of
-- simulate.open) and text (for people). Raises USAGE.
function routing.describe(text, model, trace)
  local m = models.describe(model)
  if text == 'balanced' then
    return { kind = 'balanced', text = 'balanced: every expert gets as many tokens' }
  elseif text == 'chosen' and trace then
    return { kind = 'chosen', text = 'recorded in ' .. trace }
  end
  local load = text == 'chosen' and m.load or named(text, m) or parse(text, m.load)
  if not load then
    errors.usage("unknown routing '%s'%s; known are %s, or sigma=…,tau=…,rho=…", text,
      lib.hint(text, routing.words), table.concat(routing.words, ', '))
  elseif trace then
    errors.usage('--routing=%s is synthetic, and --trace recorded: give one of them', text)
  end
  models.describe(model, { load = load })
  return { kind = 'chosen', load = load,
    text = ('%s (synthetic: %s)'):format(name_of(text, load, m), numbers(load)) }
end

return routing

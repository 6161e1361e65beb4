-- SPDX-License-Identifier: Apache-2.0

--- The split minimax against linear programmes, solved by cbc: the least max load, and at that load
-- the fewest tokens across nodes.

local layout = require 'neap.engine.layout'
local split = require 'neap.engine.split'
local topology = require 'neap.engine.topology'

local CASES, BATCH, PRICED = 200, 25, 30

--- Plays the part of a seeded random stream: whole numbers in [0, bound).
local function stream(seed)
  local state = seed
  return function(bound)
    state = (state * 16807) % 2147483647
    return state % bound
  end
end

local function draw_topology(draw, uneven)
  local nodes, ranks, slots, total = {}, 0, {}, 0
  for i = 1, 2 + draw(3) do
    nodes[i] = 1 + draw(6)
    ranks = ranks + nodes[i]
  end
  for r = 1, ranks do
    slots[r] = 1 + draw(4)
    total = total + slots[r]
  end
  local p = { nodes = nodes, slots = slots, experts = 1 + draw(math.min(total, 24)) }
  if uneven then
    p.cost, p.speed = {}, {}
    for e = 1, p.experts do p.cost[e] = 0.5 + draw(1000) / 400 end
    for r = 1, ranks do p.speed[r] = 0.5 + draw(1000) / 800 end
  end
  return topology.open(p), p.cost, p.speed
end

--- Every expert somewhere, the rest of the slots at random.
local function draw_layout(draw, t)
  local held = {}
  for s = 1, t.slots do held[s] = s <= t.experts and s - 1 or draw(t.experts) end
  for s = t.slots, 2, -1 do
    local other = 1 + draw(s)
    held[s], held[other] = held[other], held[s]
  end
  return layout.open(t):set(held), held
end

local function draw_load(draw, t)
  local load, popular = {}, {}
  for e = 1, t.experts do popular[e] = 1 + draw(5) * draw(5) * draw(8) end
  for r = 1, t.ranks do
    load[r] = {}
    for e = 1, t.experts do load[r][e] = draw(100 * popular[e]) end
  end
  return load
end

--- A case: what was drawn, node_load[node][expert], rank and node of each slot (from 1).
local function draw_case(seed, uneven)
  local draw = stream(seed * 7919 + 12345)
  for _ = 1, 10 do draw(2) end
  local c = {}
  c.t, c.cost, c.speed = draw_topology(draw, uneven)
  c.layout, c.held = draw_layout(draw, c.t)
  c.load = draw_load(draw, c.t)
  c.rank, c.node, c.node_load = {}, {}, {}
  for r = 0, c.t.ranks - 1 do
    local g = c.t:node_of(r) + 1
    c.node_load[g] = c.node_load[g] or {}
    for e = 1, c.t.experts do
      c.node_load[g][e] = (c.node_load[g][e] or 0) + c.load[r + 1][e]
    end
    for _ = 1, c.t:slots_of(r) do
      c.rank[#c.rank + 1], c.node[#c.node + 1] = r + 1, g
    end
  end
  return c
end

--- ---- linear programmes -------------------------------------------------------------------------

--- Rows of case i: x<i>_<node>_<slot> tokens of a node in a slot; work of a rank / speed <= bound,
-- a number or a variable's name.
local function rows_of(c, i, bound, out)
  local sent, work = {}, {}
  for s, e in ipairs(c.held) do
    for g in ipairs(c.node_load) do
      local x, pair = ('x%d_%d_%d'):format(i, g, s), g .. ' ' .. e
      local w = (c.cost and c.cost[e + 1] or 1) / (c.speed and c.speed[c.rank[s]] or 1)
      sent[pair] = (sent[pair] or '') .. ' + ' .. x
      work[c.rank[s]] = (work[c.rank[s]] or '') .. (' + %.17g %s'):format(w, x)
    end
  end
  for g, by_expert in ipairs(c.node_load) do
    for e = 1, c.t.experts do
      out[#out + 1] = ('%s = %d'):format(sent[g .. ' ' .. (e - 1)], by_expert[e])
    end
  end
  for r = 1, c.t.ranks do
    out[#out + 1] = type(bound) == 'string' and ('%s - %s <= 0'):format(work[r], bound)
      or ('%s <= %.17g'):format(work[r], bound)
  end
end

--- Solves a programme; values by variable, those that are 0 left out.
local function solve(objective, rows)
  local input, output = os.tmpname(), os.tmpname()
  local file = assert(io.open(input, 'w'))
  file:write('Minimize\n obj: ', objective, '\nSubject To\n')
  for i, row in ipairs(rows) do file:write(' c', i, ': ', row, '\n') end
  file:write('End\n')
  file:close()
  os.rename(input, input .. '.lp')
  local command = ('cbc %s.lp solve solution %s >/dev/null 2>&1'):format(input, output)
  assert(os.execute(command), 'cbc: is coinor-cbc installed?')
  local values, optimal = {}, false
  for line in io.lines(output) do
    optimal = optimal or line:match '^Optimal'
    local name, value = line:match '^%s*%d+%s+(%S+)%s+(%S+)'
    if name then values[name] = tonumber(value) end
  end
  os.remove(input .. '.lp')
  os.remove(output)
  assert(optimal, 'cbc found no optimum')
  return values
end

--- Least max work of every case.
local function least_max(cases)
  local rows, objective = {}, {}
  for i, c in ipairs(cases) do
    objective[i] = 'T' .. i
    rows_of(c, i, 'T' .. i, rows)
  end
  local values, out = solve(table.concat(objective, ' + '), rows), {}
  for i in ipairs(cases) do out[i] = values['T' .. i] or 0 end
  return out
end

--- Fewest tokens across nodes of every case, under bounds.
local function fewest_across(cases, bounds)
  local rows, objective = {}, {}
  for i, c in ipairs(cases) do
    rows_of(c, i, bounds[i], rows)
    for g in ipairs(c.node_load) do
      for s in ipairs(c.held) do
        if g ~= c.node[s] then objective[#objective + 1] = ('x%d_%d_%d'):format(i, g, s) end
      end
    end
  end
  local values, out = solve(table.concat(objective, '\n + '), rows), {}
  for i in ipairs(cases) do out[i] = 0 end
  for name, value in pairs(values) do
    local i, g, s = name:match '^x(%d+)_(%d+)_(%d+)$'
    i, g, s = tonumber(i), tonumber(g), tonumber(s)
    if i and g ~= cases[i].node[s] then out[i] = out[i] + value end
  end
  return out
end

--- Calls check(case, balance, least max work, fewest tokens across at the split's max work).
local function compare(first, last, uneven, check)
  local cases, balances, bounds = {}, {}, {}
  for seed = first, last do
    local c = draw_case(seed, uneven)
    local b = split.open(c.t, 'minimax'):compute(c.layout, c.load):balance()
    cases[#cases + 1], balances[#balances + 1] = c, b
    bounds[#bounds + 1] = b.max_work * (1 + 1e-12)
  end
  local least, fewest = least_max(cases), fewest_across(cases, bounds)
  for i, c in ipairs(cases) do check(c, balances[i], least[i], fewest[i]) end
end

--- ---- with a price ----------------------------------------------------------------------------

local function cost_of(c, slot)
  return c.cost and c.cost[c.held[slot] + 1] or 1
end

--- Max work and price x far work / ranks, of every case together, as a programme has them least.
local function least_priced(cases, price)
  local rows, objective = {}, {}
  for i, c in ipairs(cases) do
    objective[#objective + 1] = 'T' .. i
    rows_of(c, i, 'T' .. i, rows)
    for g in ipairs(c.node_load) do
      for s in ipairs(c.held) do
        if g ~= c.node[s] then
          objective[#objective + 1] = ('%.17g x%d_%d_%d'):format(price * cost_of(c, s) / c.t.ranks,
            i, g, s)
        end
      end
    end
  end
  local values, out = solve(table.concat(objective, '\n + '), rows), {}
  for i in ipairs(cases) do out[i] = values['T' .. i] or 0 end
  for name, value in pairs(values) do
    local i, g, s = name:match '^x(%d+)_(%d+)_(%d+)$'
    local c = cases[tonumber(i)]
    if c and tonumber(g) ~= c.node[tonumber(s)] then
      out[tonumber(i)] = out[tonumber(i)] + price * cost_of(c, tonumber(s)) / c.t.ranks * value
    end
  end
  return out
end

--- The same of a split, and what rounding to whole tokens may add to it.
local function priced(c, price)
  local made = split.open(c.t, 'minimax'):set_price(price):compute(c.layout, c.load)
  local far, dearest = 0, 0
  for source = 0, c.t.ranks - 1 do
    local row = made:row(source)
    for s in ipairs(c.held) do
      local crosses = c.t:node_of(source) + 1 ~= c.node[s]
      far = far + (crosses and tonumber(row[s - 1]) * cost_of(c, s) or 0)
      dearest = math.max(dearest, cost_of(c, s) / (c.speed and c.speed[c.rank[s]] or 1))
    end
  end
  local tokens = c.cost and c.t.slots or 1
  return made:balance().max_work + price * far / c.t.ranks,
    dearest * (1 + price * tokens / c.t.ranks)
end

local function compare_priced(first, last, uneven, price)
  local cases = {}
  for seed = first, last do cases[#cases + 1] = draw_case(seed, uneven) end
  local least = least_priced(cases, price)
  for i, c in ipairs(cases) do
    local cost, rounding = priced(c, price)
    local where = ('case %d, price %g: %.3f, the least is %.3f'):format(first + i - 1, price, cost,
      least[i])
    assert.is_true(cost >= least[i] * (1 - 1e-6) - 1e-6, where)
    assert.is_true(cost <= least[i] * (1 + 6e-4) + rounding, where)
  end
end

describe('minimax with a price', function()
  for _, price in ipairs { 0.05, 0.5, 3 } do
    it(('of %g is what linear programmes say'):format(price), function()
      compare_priced(1, PRICED, false, price)
      compare_priced(PRICED + 1, 2 * PRICED, true, price)
    end)
  end

  it('is minimax at 0, and local without bound', function()
    for seed = 1, CASES do
      local c = draw_case(seed, seed % 2 == 0)
      for price, rule in pairs { [0] = 'minimax', [math.huge] = 'local' } do
        local given = split.open(c.t, 'minimax'):set_price(price):compute(c.layout, c.load)
        local plain = split.open(c.t, rule):compute(c.layout, c.load)
        assert.are.same(plain:balance(), given:balance())
      end
    end
  end)

  it('is refused below 0, and for other rules', function()
    local t = topology.open { ranks = 2, slots = 1, experts = 2 }
    for rule, wrong in pairs { minimax = -1, even = 1 } do
      local ok, err = pcall(split.open(t, rule).set_price, split.open(t, rule), wrong)
      assert.is_false(ok)
      assert.are.equal('ARGUMENT', err.code)
    end
  end)
end)

describe('minimax', function()
  it('is what linear programmes say, for whole tokens', function()
    for first = 1, CASES, BATCH do
      compare(first, first + BATCH - 1, false, function(_, b, least, fewest)
        assert.are.equal(math.ceil(least - 1e-4), b.max_work)
        assert.is_true(math.abs(b.inter_node - fewest) < 0.5,
          ('%d tokens cross nodes, the fewest are %.3f'):format(b.inter_node, fewest))
      end)
    end
  end)

  it('is within a token and a point of them, for unequal costs and speeds', function()
    for first = 1, CASES, BATCH do
      compare(first, first + BATCH - 1, true, function(c, b, least, fewest)
        assert.is_true(b.max_work >= least * (1 - 1e-6))
        local token = 0 -- the dearest one
        for e, cost in ipairs(c.cost) do
          for s, held in ipairs(c.held) do
            if held == e - 1 then token = math.max(token, cost / c.speed[c.rank[s]]) end
          end
        end
        assert.is_true(b.max_work <= least + token)
        assert.is_true(b.inter_node / b.tokens - fewest / b.tokens < 0.01,
          ('%.4f of the tokens cross nodes, the least is %.4f'):format(b.inter_node / b.tokens,
            fewest / b.tokens))
      end)
    end
  end)
end)

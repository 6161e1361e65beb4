-- SPDX-License-Identifier: Apache-2.0

-- What policy late weighs: the work saved, and what crosses nodes, against the experts fetched.

local policy = require 'neap.policy'

local late = policy.create(policy.load 'experiments/policies/late.lua', {})

--- A context of 4 ranks in nodes, one slot each, whose planner changes the ranks named. saved:
-- work; crossing: tokens across nodes that are saved besides.
local function context(nodes, changed, saved, crossing)
  local first_rank = { [0] = 0 }
  for n = 1, nodes do first_rank[n] = n * 4 / nodes end
  local before = { holds = function(_, rank, expert) return expert == rank end }
  local after = { at = function(_, rank) return changed[rank] and 9 or rank end }
  return {
    current = true, previous = before, after = after, fetch_work = 100,
    topology = { ranks = 4, nodes = nodes, first_rank = first_rank,
      slots_of = function() return 1 end },
    history = { last = function() end }, plan = function() return after end,
    cost = function(_, layout)
      local old = layout == before
      return { max_work = old and 1000 + saved or 1000, inter_node = old and crossing or 0 }
    end,
  }
end

local function changes(ctx)
  return late:plan(ctx) == ctx.after
end

describe('policy late', function()
  it('changes nothing before neap has planned, and hands neap the layout before changes', function()
    assert.is_false(changes(context(2, { [0] = true }, 34, 0)))
    local from, early = {}, {}
    local ctx = { plan = function(_, _, o)
      from[#from + 1] = o.from or 'the active one'
      return early
    end }
    assert.are.equal(early, late:plan(ctx))
    late:plan(ctx)
    assert.are.same({ 'the active one', early }, from)
  end)

  it('fetches an expert if three passes of what is saved are more than its price', function()
    assert.is_true(changes(context(2, { [0] = true }, 34, 0)))
    assert.is_false(changes(context(2, { [0] = true }, 33, 0)))
  end)

  it('has the ranks of a node share its link, where links have a price', function()
    assert.is_true(changes(context(2, { [0] = true, true }, 34, 0)))
    local function priced(...)
      local ctx = context(...)
      ctx.far_price = 1
      return ctx
    end
    assert.is_false(changes(priced(2, { [0] = true, true }, 66, 0)))
    assert.is_true(changes(priced(2, { [0] = true, true }, 67, 0)))
    assert.is_true(changes(priced(2, { [0] = true, [2] = true }, 34, 0)))
    assert.is_true(changes(priced(1, { [0] = true, true, true, true }, 34, 0)))
  end)

  it('counts what crosses nodes at its price, as a share of every rank', function()
    local ctx = context(2, { [0] = true }, 0, 140)
    assert.is_false(changes(ctx))
    ctx.far_price = 1
    assert.is_true(changes(ctx))
    ctx.far_price = 0.9
    assert.is_false(changes(ctx))
  end)

  it('goes by the price that it is given, else by that of one fetch', function()
    late.price = 2.5
    local ctx = context(2, { [0] = true, true }, 1, 0)
    assert.is_true(changes(ctx))
    late.price, ctx.fetch_work = -1, nil
    assert.is_false(changes(context(2, { [0] = true }, 3, 0)))
    local rich = context(2, { [0] = true, true }, 801, 0)
    rich.fetch_work = nil
    assert.is_true(changes(rich))
  end)
end)

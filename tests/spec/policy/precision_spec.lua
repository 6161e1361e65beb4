-- SPDX-License-Identifier: Apache-2.0

--- The hook precision: what it is told and may answer, in a worker and in the rank.

local precision = require 'neap.policy.precision'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local LAYERS = 2
local FILE = 'tests/policies/precise.lua'

--- travel: of the session, over f32 without anything in FP8.
local function open(options, travel)
  local given = { topology = topology.open { ranks = 2, slots = 2, experts = 4 }, layers = LAYERS,
    policy = FILE .. ':answer=' .. options.answer, seed = 3, in_process = options.in_process,
    strict = options.strict,
    travel = { unshard = 'dtype', dispatch = 'dtype', dtype = 'f32' } }
  for key, value in pairs(travel or {}) do given.travel[key] = value end
  return session.open(given)
end

--- What the layers travel by in a step, as one text, after so many losses and waits.
local function travel(s, step, losses, wait_ms)
  local texts = {}
  for layer, value in pairs(s:travel(step, { losses = losses, count = #losses,
    wait_ms = wait_ms })) do
    texts[layer + 1] = precision.text(value)
  end
  return table.concat(texts, ', ')
end

describe('precision', function()
  for _, in_process in ipairs { false, true } do
    it(in_process and 'is asked in the rank' or 'is asked in the worker', function()
      local s = open { answer = 'late', in_process = in_process }
      assert.is_true(s.adapts)
      assert.are.equal('dtype dtype, dtype dtype', travel(s, 0, {}))
      assert.are.equal('dtype dtype, fp8 dtype', travel(s, 1, { 3 }, { [0] = 0, 0.5 }))
      assert.are.equal('fp8 fp8, fp8 fp8', travel(s, 2, { 3, 1 }, { [0] = 0, 0 }))
      local report = s:report()
      assert.are.equal(0, report.faults, table.concat(report.messages, '\n'))
      assert.are.equal(3 / 6, report.fp8_unshard)
      assert.are.equal(2 / 6, report.fp8_dispatch)
      s:close()
    end)

    it('keeps what was after a fault, and says what is wrong', function()
      for answer, message in pairs {
        number = "the answer is a number; it must be 'fp8', 'dtype' or a table",
        field = "the answer has an unknown field 'dispach' %(did you mean 'dispatch'%?%)",
        word = "unshard is 'fp4'; allowed are 'fp8', 'dtype' and what that is here, 'f32'",
        other = "dispatch is 'bf16'; allowed are 'fp8', 'dtype'",
        raises = 'on purpose',
      } do
        local s = open({ answer = answer, in_process = in_process }, { dispatch = 'fp8' })
        assert.are.equal('dtype fp8, dtype fp8', travel(s, 4, {}))
        local report = s:report()
        assert.are.equal(LAYERS, report.faults)
        assert.matches('precise.lua:%d+: precision at step 4, layer 0: ' .. message,
          report.messages[1])
        s:close()
      end
    end)
  end

  it('is raised where faults are', function()
    local s = open { answer = 'word', strict = true }
    local ok, err = pcall(travel, s, 0, {})
    assert.is_false(ok)
    assert.are.equal('POLICY', err.code)
    s:close()
  end)

  it("takes the dtype's own name, and no FP8 of resident experts", function()
    local s = open({ answer = 'other' }, { dtype = 'bf16', unshard = 'fp8' })
    assert.are.equal('dtype dtype, dtype dtype', travel(s, 0, {}))
    s:close()
    s = open({ answer = 'late' }, { resident = true })
    assert.are.equal('dtype dtype, dtype dtype', travel(s, 2, { 3, 1 }))
    assert.matches('resident experts do not travel in FP8', s:report().messages[1])
    s:close()
  end)

  it('is not asked in a replay, and not counted where nothing is in FP8', function()
    local plain = session.open { topology = topology.open { ranks = 2, slots = 2, experts = 4 },
      layers = 1, policy = 'static', travel = { unshard = 'dtype', dispatch = 'dtype',
        dtype = 'f32' } }
    assert.are.equal('dtype dtype', travel(plain, 0, {}))
    assert.is_nil(plain:report().fp8_unshard)
    plain:close()
    local s = session.open { topology = topology.open { ranks = 2, slots = 2, experts = 4 },
      layers = 1, policy = FILE .. ':answer=raises' }
    s:advance(0)
    assert.are.equal(0, s:report().faults)
    s:close()
  end)

  it('is told the newest losses', function()
    local losses = {}
    for i = 1, 100 do losses[i] = i end
    local ctx = {}
    precision.tell(ctx, precision.pack(losses, 100, 0.25), { unshard = 'fp8', dispatch = 'dtype' })
    assert.are.same({ 32, 100, 0.25, 'fp8' },
      { #ctx.losses, ctx.losses[32], ctx.unshard_wait_ms, ctx.unshard })
  end)
end)

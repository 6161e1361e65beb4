-- SPDX-License-Identifier: Apache-2.0

local kept = require 'neap.runs.kept'

describe('what the store keeps as JSON', function()
  local function refused(text, pattern)
    local ok, err = pcall(kept.summary, text, 'runs.db: result 7: summary')
    assert.is_false(ok)
    assert.are.equal('FORMAT', err.code)
    assert.matches('^store: runs.db: result 7: summary: ' .. pattern, err.message)
  end

  it('is read in the shape of today, also of earlier versions', function()
    assert.are.equal(2, kept.summary('{"imbalance":2,"step_seconds":0.5}', 'x').imbalance.mean)
    assert.are.equal(500, kept.summary('{"imbalance":2,"step_seconds":0.5}', 'x').step_ms)
    assert.are.same({ 3, 2.5 }, kept.summary('{"losses":[3,2.5]}', 'x').losses)
    assert.are.equal(0.5, kept.summary('{"imbalance":{"mean":2}}', 'x').share_of_ideal)
  end)

  it('is refused, naming the place, where it is not what it should be', function()
    refused('', 'is no JSON object')
    refused('[1', 'is no JSON object')
    refused('3', 'is no JSON object')
    refused('{"a":1}}', 'is no JSON object: something after its end')
    refused('{{}:1}', 'is no JSON object')
    refused(('['):rep(100000), 'is no JSON object: nested too deeply')
    refused('{"losses":[1,"x"]}', "field 'losses'")
    refused('{"losses":{"a":1}}', "field 'losses'")
    refused('{"plan_ms":"fast"}', "field 'plan_ms'")
    refused('{"imbalance":{"mean":"x"}}', "field 'imbalance'")
    refused('{"step_ms":{}}', "field 'step_ms'")
    refused('{"plans_on":1}', "field 'plans_on'")
  end)
end)

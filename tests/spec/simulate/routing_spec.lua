-- SPDX-License-Identifier: Apache-2.0

-- Whose routing is simulated, by name.

local routing = require 'neap.simulate.routing'

local E16, E8 = 'mixtral-8x7b-e16k4', 'mixtral-8x7b-e8k2'

describe('routing', function()
  it('is the model\'s unless it is said, and says which', function()
    local of = routing.describe('chosen', E16)
    assert.are.same({ sigma = 1.72, tau = 0.77, rho = 0.989 }, of.load)
    assert.matches('^counted %(synthetic: deviation 1.72, noise 0.77, correlation 0.989%)', of.text)
    assert.matches("^the model's ", routing.describe('chosen', 'moe-671b').text)
    assert.are.same({ sigma = 0.66, tau = 0.665, rho = 0.9875 },
      routing.describe('counted', E8).load)
    -- 1.03 + 35 steps of (2.35 - 1.03) / 19.5; of e8k2 in proportion
    local later, of_e8 = routing.describe('later', E16).load, routing.describe('timed', E8).load
    assert.is_near(1.03 + 35 * 1.32 / 19.5, later.sigma, 1e-9)
    assert.is_near(0.66 * later.sigma / 1.03, of_e8.sigma, 1e-9)
    assert.is_near(1 - 0.0125 * 3 / 11, of_e8.rho, 1e-9)
    assert.are.equal('recorded in a.csv', routing.describe('chosen', E8, 'a.csv').text)
    assert.are.equal('balanced', routing.describe('balanced', E8).kind)
  end)

  it('takes numbers, the rest being the model\'s', function()
    assert.are.same({ sigma = 3, tau = 0.77, rho = 0.5 },
      routing.describe('sigma=3,rho=0.5', E16).load)
  end)

  it('refuses what it does not know', function()
    local function refuses(pattern, ...)
      local ok, err = pcall(routing.describe, ...)
      assert.is_false(ok)
      assert.matches(pattern, err.message)
    end
    refuses("unknown routing 'latr' %(did you mean 'later'", 'latr', E8)
    refuses("'sigma=x' in 'sigma=x'; a field is", 'sigma=x', E8)
    refuses("'width=1'", 'width=1', E8)
    refuses('sigma is 11', 'sigma=11', E8)
    refuses('give one of them', 'later', E8, 'a.csv')
  end)
end)

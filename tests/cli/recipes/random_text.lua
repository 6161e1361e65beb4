--- Text without a corpus, for recipes of tests: ids of which the small ones are frequent, and other
-- ones at every step.

local lib = require 'neap.base.lib'

local C = lib.C

local Text = {}
Text.__index = Text

function Text:describe()
  return self.name
end

function Text:sample(seed, step, sequence, length, ids, targets)
  local vocabulary = self.vocabulary
  local function id(i)
    local u = C.neap_random_uniform(seed, step * 4096 + sequence, i)
    return math.floor(u * u * vocabulary + step) % vocabulary
  end
  for i = 0, length - 1 do ids[i], targets[i] = id(i), id(i + 1) end
end

return setmetatable({ name = 'random', texts = {}, vocabulary = 17 }, Text)
-- SPDX-License-Identifier: Apache-2.0

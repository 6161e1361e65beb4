-- SPDX-License-Identifier: Apache-2.0

--- LPLB (DeepSeek): experts ordered by EPLB on history, without replicas; free slots hold the
-- heaviest experts of fixed partners, so that replicas are the edges of a graph of ranks. The
-- tokens of a batch move along those edges by the exact split, on its own counts.
local plan = require('neap').plan
local policy = require 'neap.policy'

local GRAPHS = { 'cube', 'hypercube', 'torus', 'ring' }

local Lplb = policy.define {
  name = 'lplb',
  doc = "LPLB's graph of replicas and the exact split",
  params = {
    window = { default = 5, min = 1, integer = true, doc = 'steps of history to plan on' },
    graph = { default = 'cube', choices = GRAPHS, doc = 'edges between ranks' },
  },
  split = 'minimax',
}

function Lplb:plan(ctx)
  local graph
  for i, name in ipairs(GRAPHS) do
    if name == self.graph then graph = i - 1 end
  end
  return plan.lplb(ctx, { window = self.window, graph = graph })
end

return Lplb

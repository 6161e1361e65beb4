-- SPDX-License-Identifier: Apache-2.0

--- What does a token that stays on its node cost in balance?
--
-- Replays traces under neap at several values of `locality`, with the split that balances all ranks
-- (minimax) and with the one that balances each node for its own tokens (local), and prints the
-- curve as Markdown.
--
--   ./neap lua experiments/planning/locality.lua [TRACE…]
--
-- Costs: about 20 seconds for the traces that come with Neap.

local neap = require 'neap'
local sets = require 'planning.sets'

local POLICIES = { 'neap:locality=0', 'neap:locality=0.25', 'neap:locality=0.5',
  'neap:locality=0.75', 'neap:locality=1', 'neap+local:locality=0.5', 'neap+local:locality=1' }

for _, set in ipairs(sets.open { ... }) do
  print(('\n**%s**: %s\n'):format(set.name, tostring(set.topology)))
  print '| policy | imbalance | p95 | inter-node % |\n|---|---|---|---|'
  for _, policy in ipairs(POLICIES) do
    local r = neap.replay.score { trace = set.trace, topology = set.topology, policy = policy }
    print(('| %s | %.4f | %.4f | %.2f |'):format(policy, r.imbalance.mean, r.imbalance.p95,
      100 * r.inter_node_share))
  end
end

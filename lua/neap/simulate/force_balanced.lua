-- SPDX-License-Identifier: Apache-2.0

--- What the share of force-balanced is told by: the steps of a run in which every expert gets as
-- many tokens. Static layouts with as many replicas of every expert as the slots allow, so that
-- every rank has as much to do, and the exact split. Where the slots of the ranks cannot be shared
-- out so, no static layout is even: planner neap replicates what makes it so, if they are enough.

local force_balanced = {}

--- The most slots per rank, up to those that there are, of which every expert gets as many, or the
-- fewest; all if there are none such. And the policy; known: it may plan on the loads themselves.
function force_balanced.reference(slots, ranks, experts, known)
  for few = slots, 1, -1 do
    if few * ranks % experts == 0 then return few, 'static+minimax' end
  end
  return slots, known and 'neap:on=known' or 'neap'
end

return force_balanced

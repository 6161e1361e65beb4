--- What the share of force-balanced is told by: the steps of plain expert parallelism if every
-- expert got as many tokens. Static layouts without slots to spare, so that every rank has as much
-- to do, and the exact split. Where no number of slots is shared out evenly, ranks stay uneven.

local force_balanced = { POLICY = 'static+minimax' }

--- The most slots per rank, up to those that there are, of which every expert gets as many, or the
-- fewest; all if there are none such.
function force_balanced.slots(slots, ranks, experts, fewest)
  local found = slots
  for few = slots, 1, -1 do
    if few * ranks % experts == 0 then
      found = few
      if not fewest then return few end
    end
  end
  return found
end

return force_balanced

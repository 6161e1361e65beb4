-- SPDX-License-Identifier: Apache-2.0

--- What sharded experts are compared with: experts that stay whole at home on a rank, alone (plain
-- EP) or with slots to spare that are filled late, by a rule on the current counts.

local systems = {}

--- Policies for resident experts. Each plans a run of ep ranks by itself.
systems.resident = { 'static', 'moonep:on=current', 'ultraep:on=current', 'llep:on=current' }

--- The degree of expert parallelism that keeps tokens in a node: the most ranks of one that divide
-- both all ranks and the experts.
function systems.degree(machine, model)
  for ep = math.min(machine.node_size, machine.ranks), 1, -1 do
    if machine.ranks % ep == 0 and model.experts % ep == 0 then return ep end
  end
end

return systems

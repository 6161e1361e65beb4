-- SPDX-License-Identifier: Apache-2.0

--- Where a layer's experts are kept, as users say it: cut over 'all' ranks, over those of a 'node',
-- over so many ranks, or 'resident': whole, each at home on one of ep consecutive ranks (plain
-- expert parallelism of degree ep; the other runs of ep ranks have homes of their own).

local errors = require 'neap.base.errors'

local shard_group = {}

--- Parameters of a recipe.
shard_group.params = {
  shard_group = { default = 'all',
    doc = 'ranks that working parameters are cut over: all, node, or how many; resident: experts '
      .. 'are not cut, they stay whole at home on a rank (plain EP)' },
  ep = { default = 0, min = 0, integer = true,
    doc = 'of resident experts: ranks that have a home of every expert; 0: all' },
}

--- ranks: how many. unshard: how experts travel, or nil. Returns the group as shards.open takes it,
-- and the homes of the topology, nil unless experts are resident. Raises USAGE.
function shard_group.resolve(text, ep, ranks, unshard)
  ep = ep or 0
  if text ~= 'resident' then
    if ep ~= 0 then
      errors.usage('--ep is %s, which is for resident experts (--shard-group=resident); the shard '
        .. 'group is %s', ep, text)
    end
    return tonumber(text) or text
  end
  if unshard == 'fp8' then
    errors.usage('--unshard=fp8 is for experts that are sharded; resident ones are computed with '
      .. 'as they are: --shard-group=all, node or a number of ranks')
  end
  if ep % 1 ~= 0 or ep < 0 or ep > ranks or ep > 0 and ranks % ep ~= 0 then
    errors.usage('--ep is %s; it must be a divisor of %d, the number of ranks, or 0 for all', ep,
      ranks)
  end
  return 'resident', ep > 0 and ep or ranks
end

return shard_group

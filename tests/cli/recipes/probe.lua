--- Recipe of cli_spec.lua: tells what it was given, and fails as told.

local lib = require 'neap.base.lib'
local recipe = require 'neap.train.recipe'

return recipe.define {
  name = 'probe', doc = 'Tells what it was given.', ranks = 3, node_size = 2,
  params = {
    steps = { default = 5, min = 1, max = 100, integer = true, doc = 'steps to take' },
    rate = { default = 0.5, doc = 'a number' },
    kind = { default = 'plain', choices = { 'plain', 'fancy' }, doc = 'a choice' },
    keep_all = { default = false, doc = 'a flag' },
    sizes = { default = { 1, 2 }, doc = 'a list' },
    fail_rank = { default = -1, doc = 'rank that fails' },
    fail_how = { default = 'bug', doc = 'bug, or the code of an error' },
  },
  run = function(_, job)
    local p, nodes = job.params, {}
    for r = 0, job.ranks - 1 do nodes[r + 1] = job.node_of[r] end
    job:print(('ranks=%d node_size=%d nodes=%s strict=%s steps=%s rate=%s kind=%s keep_all=%s '
      .. 'sizes=%s'):format(job.ranks, job.node_size, table.concat(nodes, ','),
      tostring(job.strict), p.steps, p.rate, p.kind, tostring(p.keep_all),
      table.concat(p.sizes, ';')))
    local progress = job:progress(p.steps, 'probe')
    for step = 1, p.steps do progress:update(step, 'working') end
    progress:close()
    if job.rank == p.fail_rank then
      if p.fail_how == 'bug' then error 'this is a bug' end
      lib.raise(p.fail_how, 'told to fail')
    end
    job.comm:barrier()
  end,
}
-- SPDX-License-Identifier: Apache-2.0

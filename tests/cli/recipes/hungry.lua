--- A training whose second rank finds no memory.
local neap = require 'neap'
local lib = require 'neap.base.lib'

return neap.recipe.define {
  name = 'hungry', ranks = 2, params = neap.params.extend(neap.trainer.params, {
    slots = { default = 8, min = 1, integer = true, doc = 'expert slots per rank' } }),
  run = function(_, job)
    if job.rank == 1 then lib.raise('MEMORY', 'moe: 5 bytes are needed, 4 are free') end
    job.comm:barrier()
  end,
}
-- SPDX-License-Identifier: Apache-2.0

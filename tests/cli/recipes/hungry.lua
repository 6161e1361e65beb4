--- A training whose second rank finds no memory.
local neap = require 'neap'
local lib = require 'neap.base.lib'

return neap.recipe.define {
  name = 'hungry', ranks = 2, params = neap.trainer.params,
  run = function(_, job)
    if job.rank == 1 then lib.raise('MEMORY', 'moe: 5 bytes are needed, 4 are free') end
    job.comm:barrier()
  end,
}

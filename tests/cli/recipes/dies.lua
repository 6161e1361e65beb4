--- A training in which a rank dies, or goes another way, at a step: see tests/deaths.sh and
-- tests/cli/hang_spec.lua. Writes the file `mark` right before, and while it fills memory.
local neap = require 'neap'
local ffi = neap.lib.ffi

pcall(ffi.cdef, 'int kill(int, int); int getpid(void); int raise(int); void exit(int);')

local params = neap.params.extend(neap.trainer.params, {
  kind = { default = 'none', doc = 'how: kill, segv, exit, os_exit, memory, table, full, error, '
    .. 'skip, loop, stop, none' },
  victim = { default = 1, doc = 'the rank' },
  at = { default = 1, doc = 'the step' },
  mark = { default = '', doc = 'a file' },
})

local function mark(path)
  if path == '' then return end
  local file = assert(io.open(path, 'w'))
  file:write(ffi.C.getpid())
  file:close()
end

local die = {
  kill = function() ffi.C.kill(ffi.C.getpid(), 9) end,
  segv = function() ffi.cast('int *', 8)[0] = 1 end,
  exit = function() ffi.C.exit(0) end,
  os_exit = function() os.exit(0) end,
  memory = function() neap.tensor.new('f64', 2 ^ 45) end,
  table = function(path)
    local list = {}
    while true do
      list[#list + 1] = ffi.new('char[?]', 2 ^ 27)
      mark(path)
    end
  end,
  full = function(path) -- the last bytes, too
    local list, last = {}, 0
    mark(path)
    for _, size in ipairs { 2 ^ 27, 2 ^ 22, 2 ^ 17, 2 ^ 12, 2 ^ 5 } do
      while pcall(function() list = { list, ffi.new('char[?]', size) } end) do last = size end
      pcall(mark, path)
    end
    error(('out of memory for %d bytes'):format(last))
  end,
  error = function() error 'on purpose' end,
  skip = function() return true end,
  loop = function() while true do end end, -- luacheck: ignore
  stop = function() ffi.C.kill(ffi.C.getpid(), 19) end,
  none = function() end,
}

return neap.recipe.define {
  name = 'dies', doc = 'A rank dies.', ranks = 4, node_size = 2, params = params,
  run = function(_, job)
    local p = job.params
    local trainer = neap.trainer.open { job = job, params = p, policy = 'hot',
      text = neap.text.schedule 'english' }
    while trainer.done < p.steps do
      local skips = false
      if job.rank == p.victim and trainer.done == p.at then
        mark(p.mark)
        skips = die[p.kind](p.mark)
      end
      if not skips then job.comm:barrier() end
      trainer:step()
    end
    job:report(neap.results.training { trainer:summary() })
    trainer:close()
  end,
}
-- SPDX-License-Identifier: Apache-2.0

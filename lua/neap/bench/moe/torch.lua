--- The layer in PyTorch, in a process of its own (layer.py) that measures when it is told to:
--
--   local torch = torches.open { shapes =, loads =, tokens =, how =, side = }
--   torch:ask 'prepare'                    -- the next shape
--   torch:ask 'sample'                     -- as often as wanted
--   local rows = torch:ask 'rows'          -- a list, one a load
--
-- If it fails, or python3 or PyTorch is not there, ask returns nil and torch.failure tells why.

local subprocess = require 'neap.engine.subprocess'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'

local torches = {}

local Torch = {}
Torch.__index = Torch

local WAIT = 1e-3

--- order: shapes, a list of { experts =, top_k =, hidden =, ffn = }; loads, names; tokens; how:
-- 'eager' or 'best'; side, of the dense product. script: layer.py, unless another.
function torches.open(order, script)
  local self = setmetatable({ heard = 0, orders = os.tmpname() }, Torch)
  self.file = assert(io.open(self.orders, 'w'))
  script = script or launcher.home .. '/lua/neap/bench/moe/layer.py'
  self.program = subprocess.open({ 'python3', script,
    json.encode(order), self.orders }, {})
  return self
end

--- What it says next, or nil if it has ended.
local function hear(self)
  while true do
    local ended = self.program:ended()
    local stdout, stderr = self.program:output()
    local line = stdout:sub(self.heard + 1):match '^([^\n]*)\n'
    if line then
      self.heard = self.heard + #line + 1
      return json.decode(line)
    elseif ended then
      self.failure = stderr:match '([^\n]+)\n*$' or 'exit status ' .. self.program.status
      return nil
    end
    launcher.sleep(WAIT)
  end
end

--- Appends a word to what it reads, and waits for the answer.
function Torch:ask(word)
  if self.failure then return nil end
  self.file:write(word, '\n')
  self.file:flush()
  return hear(self)
end

function Torch:close()
  self.program:close()
  self.file:close()
  os.remove(self.orders)
end

return torches

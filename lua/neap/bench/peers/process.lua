-- SPDX-License-Identifier: Apache-2.0

--- A library of PyTorch in a process of its own, that does what it is told by a word, and answers:
--
--   local peer = process.open(process.LAYER, { kind = 'torch', shapes = … })
--   peer:ask 'prepare'                     -- as the script says
--   peer:ask 'sample'                      -- as often as wanted
--   local rows = peer:ask 'rows'
--   peer:close()
--
-- If it fails, or python3 or PyTorch is not there, ask returns nil and peer.failure tells why.

local subprocess = require 'neap.engine.subprocess'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'

local process = {}

local FOLDER = launcher.home .. '/lua/neap/bench/peers/'
process.LAYER, process.STEP = FOLDER .. 'layer.py', FOLDER .. 'step.py'

local Process = {}
Process.__index = Process

local WAIT = 1e-3

--- script: a path, LAYER or STEP. order: a table that it understands, as its head says.
function process.open(script, order)
  local self = setmetatable({ heard = 0, orders = os.tmpname() }, Process)
  self.file = assert(io.open(self.orders, 'w'))
  self.program = subprocess.open({ 'python3', script, json.encode(order), self.orders }, {})
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
function Process:ask(word)
  if self.failure then return nil end
  self.file:write(word, '\n')
  self.file:flush()
  return hear(self)
end

function Process:close()
  self.program:close()
  self.file:close()
  os.remove(self.orders)
end

return process

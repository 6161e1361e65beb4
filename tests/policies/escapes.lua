-- Tries what a policy must not be able to do, and says with an error what it could.
local ffi = require 'ffi'
ffi.cdef [[
  long syscall(long number, ...);
  int fcntl(int fd, int command, ...);
  void *mmap(void *address, size_t bytes, int protection, int flags, int fd, long offset);
  int mprotect(void *address, size_t bytes, int protection);
]]
local C = ffi.C

local Escapes = require('neap.policy').define {
  name = 'escapes',
  params = { folder = { default = '/tmp', doc = 'where to write' } },
}

local EPERM = 1

--- Whether a system call (x86-64) gets anywhere: whatever it answers but that it is not permitted.
local function call(number, ...)
  local arguments = { ... }
  for i, value in ipairs(arguments) do
    arguments[i] = type(value) == 'number' and ffi.new('long', value) or value
  end
  local result = C.syscall(number, unpack(arguments))
  return not (result == -1 and ffi.errno() == EPERM)
end

local function parent()
  return tonumber(C.syscall(110))
end

-- Each returns true where it got through. Numbers are those of system calls; pointers to nowhere
-- keep a call that gets through from doing harm.
local attempts = {
  { 'create a file', function(self) return io.open(self.folder .. '/escaped', 'w') end },
  { 'append to a file', function(self) return io.open(self.folder .. '/there', 'a') end },
  { 'change a file', function(self) return io.open(self.folder .. '/there', 'r+') end },
  { 'remove a file', function(self) return os.remove(self.folder .. '/there') end },
  { 'rename a file', function(self)
    return os.rename(self.folder .. '/there', self.folder .. '/moved')
  end },
  { 'make a temporary file', function() return (pcall(os.tmpname)) end },
  { 'open an unnamed file', function() return io.tmpfile() end },
  { 'run a command', function() return os.execute 'true' == 0 end },
  { 'read from a command', function()
    local pipe = io.popen 'echo escaped'
    return pipe and pipe:read '*a' ~= ''
  end },
  { 'write the memory of its parent', function()
    return io.open(('/proc/%d/mem'):format(parent()), 'r+')
  end },
  { 'write the requests', function() return io.open('/proc/self/fd/3', 'r+') end },
  { 'make the requests writable', function()
    local address = C.mmap(nil, 4096, 1, 1, 3, 0)
    return tonumber(ffi.cast('long', address)) ~= -1 and C.mprotect(address, 4096, 3) == 0
  end },
  { 'write to a file that is open', function() return C.syscall(1, ffi.new('long', 4), 'x',
    ffi.new('long', 1)) ~= -1 end },
  { 'have signals sent', function() return C.fcntl(0, 8, ffi.new('int', parent())) == 0 end },
  { 'open a socket', function() return call(41, 2, 1, 0) end },
  { 'open a pair of sockets', function() return call(53, 1, 1, 0, nil) end },
  { 'send to a socket', function() return call(46, 0, nil, 0) end },
  { 'fork', function()
    local pid = C.syscall(57)
    if pid == 0 then C.syscall(231, ffi.new('long', 0)) end
    return pid ~= -1
  end },
  { 'clone', function() return call(56, 0x10000000000, nil) end },
  { 'clone as newer programs do', function() return call(435, nil, 0) end },
  { 'become another program', function() return call(59, nil, nil, nil) end },
  { 'become an open program', function() return call(322, -1, nil, nil, nil, 0) end },
  { 'signal its parent', function() return call(62, parent(), 0) end },
  { 'signal everybody', function() return call(62, -1, 0) end },
  { 'signal a thread of its parent', function() return call(234, parent(), parent(), 0) end },
  { 'queue a signal', function() return call(129, parent(), 0, nil) end },
  { 'hold its parent', function() return call(434, parent(), 0) end },
  { 'trace', function() return call(101, 16, -1, nil, nil) end },
  { 'write to memory of its parent', function()
    return call(311, parent(), nil, 0, nil, 0, 0)
  end },
  { 'leave its group', function() return call(109, 0, 0) end },
  { 'leave its session', function() return call(112) end },
  { 'have its parent outlived', function() return call(157, 1, 0) end },
  { 'have more memory', function() return call(302, 0, 2, ffi.cast('void *', 8), nil) end },
  { 'run before others', function() return call(141, 0, 0, 0) end },
  { 'choose its processors', function() return call(203, 0, 0, nil) end },
  { 'make a folder', function(self) return call(83, self.folder .. '/made', 448) end },
  { 'link a file', function(self)
    return call(86, self.folder .. '/there', self.folder .. '/linked')
  end },
  { 'empty a file', function(self) return call(76, self.folder .. '/there', 0) end },
  { 'change access', function(self) return call(90, self.folder .. '/there', 511) end },
  { 'open as newer programs do', function() return call(437, -1, nil, nil, 0) end },
  { 'use a ring of requests', function() return call(425, 0, nil) end },
  { 'share memory', function() return call(29, 0, 0, 0) end },
  { 'make memory a file', function() return call(319, 'x', 0) end },
  { 'load a program into the kernel', function() return call(321, -1, nil, 0) end },
  { 'watch faults', function() return call(323, -1) end },
  { 'count events', function() return call(298, nil, 0, -1, -1, 0) end },
  { 'leave its namespaces', function() return call(272, 0x20000000) end },
  { 'call as 32-bit programs do', function() return call(0x40000000 + 39) end },
}

function Escapes:plan(ctx)
  local through = {}
  for _, attempt in ipairs(attempts) do
    if attempt[2](self) then through[#through + 1] = attempt[1] end
  end
  if #through > 0 then
    error(#through .. ' of ' .. #attempts .. ': ' .. table.concat(through, '; '))
  end
  print(#attempts .. ' attempts')
  return ctx.previous
end

return Escapes
-- SPDX-License-Identifier: Apache-2.0

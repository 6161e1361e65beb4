-- Fails with values that say nothing of themselves, or too much.
local Speechless = require('neap.policy').define {
  name = 'speechless', params = { kind = { default = 'fails', doc = 'of error' } },
}

local function raise() error 'no' end

local kinds = {
  fails = function() return setmetatable({}, { __tostring = raise }) end,
  index = function() return setmetatable({}, { __index = raise, __tostring = raise }) end,
  number = function() return setmetatable({}, { __tostring = function() return 7 end }) end,
  table = function() return {} end,
  cdata = function() return require('ffi').new 'int[4]' end,
  huge = function()
    return setmetatable({}, { __tostring = function() return ('x\n'):rep(1e6) end })
  end,
  text = function() return 'a\27[2Jb\nc' .. ('y'):rep(1e6) end,
  none = function() return nil end,
  code = function()
    return setmetatable({ code = 'USAGE', message = {} }, { __tostring = raise })
  end,
  own = function()
    return setmetatable({ code = 'USAGE' }, require('neap.base.lib').Error)
  end,
}

function Speechless:plan()
  error(kinds[self.kind]())
end
return Speechless
-- SPDX-License-Identifier: Apache-2.0

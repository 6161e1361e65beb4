--- Neap's Lua modules, loaded when first used: neap.layout is require 'neap.layout'.
return setmetatable({}, {
  __index = function(neap, name)
    local module = require('neap.' .. name)
    rawset(neap, name, module)
    return module
  end,
})

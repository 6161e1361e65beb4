--- Neap's Lua modules, loaded when first used: neap.layout is require 'neap.layout'.

--- The module of a name that has not been used before. Raises require's error.
local function load(neap, name)
  local module = require('neap.' .. name)
  rawset(neap, name, module)
  return module
end

return setmetatable({}, { __index = load })

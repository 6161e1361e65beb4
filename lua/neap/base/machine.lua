-- SPDX-License-Identifier: Apache-2.0

--- What the engine knows of the machine and of the libraries it runs on.
--
--   for _, fact in ipairs(machine.facts()) do print(fact[1], fact[2]) end

local lib = require 'neap.base.lib'

local ffi, C = lib.ffi, lib.C

local machine = {}

local out_value = ffi.new 'const char *[1]'

--- A list of { name, text }, the processor first.
function machine.facts()
  local facts = {}
  for i = 0, math.huge do
    local name = C.neap_machine(i, out_value)
    if name == nil then return facts end
    facts[i + 1] = { ffi.string(name), ffi.string(out_value[0]) }
  end
end

--- The processor's name.
function machine.processor()
  return machine.facts()[1][2]
end

return machine

-- SPDX-License-Identifier: Apache-2.0

--- Runs busted specs inside the engine's program: neap lua tests/busted.lua [OPTION…] SPEC…
-- NEAP_COLLECT=always collects garbage at every allocation, so that a pointer that outlives what it
-- points to is found at once and not once in a hundred runs.
if os.getenv 'NEAP_COLLECT' == 'always' then
  jit.off()
  collectgarbage('setpause', 1)
  collectgarbage('setstepmul', 5000)
end
rawset(_G, 'arg', { [0] = 'tests/busted.lua', ... })
require 'busted.runner' { standalone = false }

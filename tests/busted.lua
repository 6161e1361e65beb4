-- SPDX-License-Identifier: Apache-2.0

--- Runs busted specs inside the engine's program: neap lua tests/busted.lua [OPTION…] SPEC…
rawset(_G, 'arg', { [0] = 'tests/busted.lua', ... })
require 'busted.runner' { standalone = false }

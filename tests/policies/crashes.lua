-- Writes where it must not.
local ffi = require 'ffi'
local Crashes = require('neap.policy').define { name = 'crashes' }
function Crashes:plan() ffi.cast('int *', 8)[0] = 1 end
return Crashes
-- SPDX-License-Identifier: Apache-2.0

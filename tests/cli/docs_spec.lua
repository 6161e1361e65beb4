-- SPDX-License-Identifier: Apache-2.0

--- Every command and Lua block of docs/*.md runs: as it stands, with smaller sizes appended.

local document = require 'tests.cli.document'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'

-- The sanitizers' builds would take minutes, to see the same.
if not lib.version:find 'Release' then return end

local names = launcher.list(launcher.home .. '/docs')
table.sort(names)
for _, name in ipairs(names) do
  if name:match '%.md$' then
    describe('docs/' .. name .. ':', function()
      document.tests('docs/' .. name, it, setup, teardown, pending)
    end)
  end
end

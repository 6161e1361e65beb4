-- SPDX-License-Identifier: Apache-2.0

--- Manifests of checkpoints, behind their checksum: one that is accepted can be told of, and says
-- how many parameters it has.

local folder = require 'neap.train.checkpoint_folder'
local judge = require 'judge'
local json = require 'neap.base.json'
local plain_model = require 'neap.train.plain_model'
local facts = require('neap.cli.checkpoint').facts

local FORMAT = { FORMAT = true }

return function(text)
  local ok, manifest = judge(FORMAT, folder.parse, text, 'manifest.json')
  if not ok then return end
  manifest.path = '/nowhere'
  judge(FORMAT, facts, manifest)
  local count = plain_model.count(manifest)
  if count ~= count or count < 0 then error(('%s parameters'):format(count)) end
  local again = folder.parse(json.encode(manifest), 'again')
  if again.step ~= manifest.step or #again.files ~= #manifest.files then error 'another one' end
end

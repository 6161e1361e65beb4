-- SPDX-License-Identifier: Apache-2.0

--- Rows of trainings as a text table and as a JSON document.

local metrics = require 'neap.runs.metrics'
local text_table = require 'neap.base.text_table'

local results = {}

local MEASURED = '\n%d ranks, %d steps, seed %d. Bytes: of all ranks, per step. Loss: nats per '
  .. '%s, mean of the last tenth.'
local SIMULATED = '\n%d ranks, %d steps, seed %d. Trained on the CPU; times and shares of them are '
  .. 'simulated: %s on %s.'

--- rows: what trainer:run returned. Returns { text =, json = }: a table with the ideal as last row,
-- and { rows = {…} }.
-- : list of table -> table
function results.training(rows)
  local first = rows[1]
  local table_name = first.simulated and 'simulate' or 'run'
  local footer = first.simulated and SIMULATED:format(first.ranks, first.steps, first.seed,
    first.model or "the recipe's model", first.cluster)
    or MEASURED:format(first.ranks, first.steps, first.seed, first.tokenised and 'token' or 'byte')
  return { text = text_table.format(metrics.cells(table_name, rows)) .. footer,
    json = { rows = rows } }
end

return results

-- SPDX-License-Identifier: Apache-2.0

--- What a run has said, and its sources as they were: a page of neap ui.

local frame = require 'neap.ui.frame'
local kept = require 'neap.runs.kept'
local live = require 'neap.runs.live'
local page = require 'neap.report.page'

local log = {}

local function text_of(runs, hash)
  local row = hash and runs:rows('SELECT body FROM texts WHERE sha256 = ?', hash)[1]
  return row and row.body
end

--- Calls add(title, text) for each: what policies said in their faults, then their sources.
local function texts_of(runs, results, add)
  for _, result in ipairs(results) do
    local summary = result.summary and kept.summary(result.summary, ('%s: result %d: summary')
      :format(runs.path, result.id))
    add(result.policy .. ': faults', summary and summary.messages
      and table.concat(summary.messages, '\n'))
  end
  for _, result in ipairs(results) do
    add(result.policy_file or result.policy, text_of(runs, result.policy_sha256))
  end
end

--- What a run has said when it failed, the faults of its policies, and its recipe and policies as
-- they were.
-- : store, table -> string
function log.render(runs, run)
  local parts, seen = { frame.back(run), page.fill('<p class="card">%s</p>', run.command) }, {}
  local function add(title, text)
    if not text or text == '' or seen[text] then return end
    seen[text] = true
    parts[#parts + 1] = page.fill('<details%s><summary>', #parts == 2 and ' open' or '')
      .. page.fill('%s</summary><pre>%s</pre></details>', title, text)
  end
  add('error, and the end of what was written to stderr', run.error)
  local results = live.results(runs, run)
  texts_of(runs, results, add)
  add(run.script or 'script', text_of(runs, run.script_sha256))
  if #parts == 2 then
    parts[3] = '<p class="card">It has said nothing, and the store has no sources of it.</p>'
  end
  return frame.render { title = ('Neap: run %d'):format(run.id), subtitle = 'log and sources',
    root = '../../', body = table.concat(parts) }
end

return log

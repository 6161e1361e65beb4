-- SPDX-License-Identifier: Apache-2.0

--- Where does the time of a step go? Simulated, beside the published break-down: exchange of tokens
-- with waiting for slow ranks, experts, everything else; mean over ranks.
--
--   ./neap run experiments/paper/breakdown.lua
--
-- Costs: about two minutes.

local neap = require 'neap'
local paper = require 'paper.runs'

local MODELS = { 'mixtral-8x7b-e16k4', 'mixtral-8x7b-e8k2' }

local function seconds(value)
  return value and ('%.2f'):format(value)
end

return neap.recipe.define {
  name = 'breakdown',
  doc = 'Where the time of a step goes: simulated, and published.',
  params = neap.params.extend(paper.params, {
    methods = { default = { 'fsdp+ep', 'flexmoe', 'laer', 'neap' }, doc = 'systems to compare' },
  }),

  run = function(_, job)
    local p, rows, list, data = job.params, {}, {}, {}
    for _, model in ipairs(MODELS) do
      local published = paper.breakdown[model:match 'e%d+k%d+$']
      for _, method in ipairs(p.methods) do
        local f, known = paper.score(method, p.cluster, model, p), published[method] or {}
        local total = f.step_ms / 1e3
        local tokens, expert = f.exposed_ms.tokens / 1e3, f.compute_ms.expert / 1e3
        rows[#rows + 1] = { model, method, seconds(tokens), seconds(known[1]), seconds(expert),
          seconds(known[2]), seconds(total - tokens - expert),
          known[1] and seconds(known[3] - known[1] - known[2]), seconds(total), seconds(known[3]) }
        list[#list + 1] = { model = model, method = method, exposed_ms = f.exposed_ms,
          compute_ms = f.compute_ms, step_ms = f.step_ms, published_s = known, simulated = true }
        data[#data + 1] = { model:match 'e%d+k%d+$' .. ' ' .. method, tokens, expert,
          total - tokens - expert }
      end
    end
    paper.report(job, 'breakdown', {
      heading = { 'model', 'method', 'tokens s', 'published', 'experts s', 'published', 'other s',
        'published', 'total s', 'published' },
      rows = rows, document = { cluster = p.cluster, rows = list },
      note = 'tokens: exchange of tokens with the waiting for slow ranks. Published experts are '
        .. 'products alone; simulated ones include their elementwise work. Simulated, except for '
        .. 'the columns "published".',
      chart = { title = 'Where a step goes (simulated)', unit = 's',
        series = { 'tokens and waiting', 'experts', 'other' }, data = data },
    })
  end,
}

-- SPDX-License-Identifier: Apache-2.0

--- How far the predictions of docs/paper.md are off: over the cells that nothing was fitted on, by
-- the published results that are known to this project, beside the null model's.
--
--   local r = protocol.judge(end_to_end.rows, ablation.rows)
--   print(protocol.text(r))

local paper = require 'paper.runs'

local protocol = {}

local LIMIT = { mean = 5, most = 10 } -- %, what a prediction has to keep to
local ABLATIONS = { 'no_comm_opt', 'no_pq' } -- no_even: unexplained, and no claim

local function off(ratio, published)
  return 100 * (ratio / published - 1)
end

local function is_claimed(method)
  for _, name in ipairs(paper.claimed) do
    if name == method then return true end
  end
  return false
end

--- Mean and most of absolute values; nil of none.
local function spread(list)
  local sum, most = 0, 0
  for _, value in ipairs(list) do
    sum, most = sum + math.abs(value), math.max(most, math.abs(value))
  end
  if #list == 0 then return nil end
  return { mean = sum / #list, most = most, count = #list }
end

--- Pairs of systems of a model with published times: right (in the order of the published), all,
-- and of claimed systems and LAER alone.
local function pairs_in_order(rows)
  local order = { right = 0, all = 0, claimed_right = 0, claimed = 0, wrong = {} }
  for i, a in ipairs(rows) do
    for k = i + 1, #rows do
      local b = rows[k]
      if a.model == b.model and a.published_ratio_to_laer and b.published_ratio_to_laer then
        local right = (a.step_ms < b.step_ms)
          == (a.published_ratio_to_laer < b.published_ratio_to_laer)
        local ours = (a.method == 'laer' or is_claimed(a.method))
          and (b.method == 'laer' or is_claimed(b.method))
        order.all, order.right = order.all + 1, order.right + (right and 1 or 0)
        order.claimed = order.claimed + (ours and 1 or 0)
        order.claimed_right = order.claimed_right + (ours and right and 1 or 0)
        if not right then
          order.wrong[#order.wrong + 1] = ('%s: %s and %s'):format(a.model, a.method, b.method)
        end
      end
    end
  end
  return order
end

--- Errors of copying a claimed ratio from a model of the other kind: what one would have without a
-- simulation for a kind that nobody has run.
local function other_kind(rows)
  local list = {}
  for _, row in ipairs(rows) do
    local other = row.model:gsub('e8k2$', 'x'):gsub('e16k4$', 'e8k2'):gsub('x$', 'e16k4')
    local known, copied = row.published_ratio_to_laer, paper.published_ratio(other, row.method)
    if known and copied and is_claimed(row.method) then list[#list + 1] = off(copied, known) end
  end
  return list
end

--- rows: of end_to_end; parts: of ablation. Returns { claimed, absolute, ablation, null, other_kind
-- (spreads of errors in %), order, unclaimed }.
function protocol.judge(rows, parts)
  local claimed, absolute, null, unclaimed, ablation = {}, {}, {}, {}, {}
  for _, row in ipairs(rows) do
    local known = row.published_ratio_to_laer
    if known and row.method == 'laer' and row.model ~= 'mixtral-8x7b-e8k2' then
      absolute[#absolute + 1] = off(row.step_ms, paper.published[row.model].laer)
    elseif known and is_claimed(row.method) then
      claimed[#claimed + 1] = off(row.ratio_to_laer, known)
      if row.null_ratio_to_laer then null[#null + 1] = off(row.null_ratio_to_laer, known) end
    elseif known and row.method ~= 'laer' then
      unclaimed[#unclaimed + 1] = off(row.ratio_to_laer, known)
    end
  end
  for _, row in ipairs(parts) do
    for _, name in ipairs(ABLATIONS) do
      if row.variant == name then
        ablation[#ablation + 1] = off(row.ratio_to_laer, row.published_ratio_to_laer)
      end
    end
  end
  return { claimed = spread(claimed), absolute = spread(absolute), ablation = spread(ablation),
    null = spread(null), other_kind = spread(other_kind(rows)), unclaimed = spread(unclaimed),
    order = pairs_in_order(rows) }
end

local TITLES = {
  { 'claimed', 'ratios of fsdp+ep and flexmoe to laer: **the claim**' },
  { 'absolute', "laer's step time, but for the model that constants were fitted on" },
  { 'ablation', 'two parts of LAER taken away: ratios to laer' },
  { 'null', 'null model: the ratio of the 7B model of the same kind' },
  { 'other_kind', 'null model for a new kind: the ratio of the model of the other kind' },
  { 'unclaimed', 'megatron to laer: no claim' },
}

--- The page's section.
function protocol.text(r)
  local lines = { '| predicted, not fitted | cells | mean error % | largest % |',
    '|---|---|---|---|' }
  for _, title in ipairs(TITLES) do
    local s = r[title[1]]
    if s then
      lines[#lines + 1] = ('| %s | %d | %.1f | %.1f |'):format(title[2], s.count, s.mean, s.most)
    end
  end
  local o, c = r.order, r.claimed
  lines[#lines + 1] = ''
  lines[#lines + 1] = ('The claim is to be off by %d %% at most on average and by more than %d %% '
    .. 'in no cell; that is %s.'):format(LIMIT.mean, LIMIT.most,
    c and c.mean <= LIMIT.mean and c.most <= LIMIT.most and 'kept' or 'not kept')
  lines[#lines + 1] = ('Which of two systems is faster is right in %d of %d pairs with published '
    .. 'results, in %d of %d'):format(o.right, o.all, o.claimed_right, o.claimed)
  lines[#lines + 1] = ('without Megatron%s'):format(#o.wrong > 0 and '. Wrong are:' or '.')
  for i, pair in ipairs(o.wrong) do
    if i == 1 then lines[#lines + 1] = '' end
    lines[#lines + 1] = '* ' .. pair
  end
  return table.concat(lines, '\n')
end

return protocol

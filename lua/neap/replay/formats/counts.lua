-- SPDX-License-Identifier: Apache-2.0

--- Tokens by step, layer, rank and expert, as readers of other formats find them: in any order,
-- under whatever ids. What comes out has the shape of a trace.
--
--   local counts = Counts.new { path = 'x.npy', ranks = 4, draw = false, seed = 1 }
--   counts:row(step, layer, rank)            -- with ranks: a row to add to
--   counts:add(row, expert, tokens)
--   local deal = counts:dealer(tokens)       -- without: deal(i) is the rank of the i-th token
--   counts:spread(step, layer, expert, n)    -- without: tokens of all ranks
--   local whole = counts:finish()            -- steps, layers, ranks, experts, load(step, layer)

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local ffi, C = lib.ffi, lib.C

local Counts = {}
Counts.__index = Counts

local MOST = 2 ^ 31 - 1
local MOST_EXPERTS = 2 ^ 13 -- unless more are asked for: an id that is damaged is mostly larger
local DRAW_STREAM = 0x64726177 -- random numbers of what is drawn

--- o: path (for messages), ranks (to which tokens of a format without ranks go; nil: not told),
-- draw, seed, experts (their number; nil: the largest id that is seen, and one).
-- : table -> Counts
function Counts.new(o)
  return setmetatable({ o = o, most = o.experts or MOST_EXPERTS, rows = {}, steps = {}, layers = {},
    ranks = {}, largest = -1, known = 0, drawn = 0, notes = {}, metadata = {} }, Counts)
end

function Counts:fail(text, ...)
  lib.raise('FORMAT', ('%s: '):format(self.o.path) .. text:format(...), 2)
end

--- The row of a rank, made if it is not there. step, layer, rank: any numbers.
-- : number, number, number -> row
function Counts:row(step, layer, rank)
  local of_step = self.rows[step]
  if not of_step then
    of_step = {}
    self.rows[step], self.steps[#self.steps + 1] = of_step, step
  end
  local of_layer = of_step[layer]
  if not of_layer then
    of_layer, self.layers[layer] = {}, true
    of_step[layer] = of_layer
  end
  local row = of_layer[rank]
  if not row then
    row = { room = 64, load = ffi.new('int64_t[?]', 64) }
    of_layer[rank], self.ranks[rank] = row, true
  end
  return row
end

local function grow(row, expert)
  local room = row.room
  while room <= expert do room = 2 * room end
  local load = ffi.new('int64_t[?]', room)
  ffi.copy(load, row.load, 8 * row.room)
  row.room, row.load = room, load
end

--- Adds tokens of an expert to a row.
-- : row, integer, integer
function Counts:add(row, expert, tokens)
  if expert < 0 or expert >= self.most then
    self:fail('expert %d; there are 0 to %d%s', expert, self.most - 1,
      self.o.experts and ' (--experts)' or ' unless --experts says more')
  end
  if expert >= row.room then grow(row, expert) end
  if expert > self.largest then self.largest = expert end
  row.load[expert] = row.load[expert] + tokens
end

--- There are so many experts, whether all have tokens or not.
-- : integer
function Counts:has_experts(number)
  self.known = math.max(self.known, number)
end

--- ---- formats without ranks --------------------------------------------------------------------

--- Raises USAGE unless it was told how many ranks there are to be.
-- : string -> integer
function Counts:need_ranks(what)
  self.without_ranks = true
  if self.o.ranks then return self.o.ranks end
  errors.usage('%s: %s has no ranks: --ranks=N deals its tokens to N in order, and with --draw '
    .. 'each goes to one at random', self.o.path, what)
end

local function uniform(self)
  self.drawn = self.drawn + 1
  return C.neap_random_uniform(self.o.seed, DRAW_STREAM, self.drawn)
end

--- Of so many tokens in their order: the rank of the i-th, from 0. Dealt, the first N-th of them is
-- rank 0's, as sequences of a batch are.
-- : integer -> function(integer) -> integer
function Counts:dealer(tokens)
  local ranks = self.o.ranks
  if self.o.draw then return function() return math.floor(uniform(self) * ranks) end end
  return function(i) return math.floor(i * ranks / tokens) end
end

local LEAST_MEAN = 30 -- of a binomial that is drawn at once, by inversion

--- Of n tokens, how many go where each goes with probability p: a binomial, as a sum of small ones.
local function binomial(self, n, p)
  if p >= 1 then return n end
  local piece, sum = math.max(1, math.floor(LEAST_MEAN / p)), 0
  while n > 0 do
    local m, k = math.min(n, piece), 0
    local u, term = uniform(self), (1 - p) ^ m
    while u >= term and k < m do
      u, k = u - term, k + 1
      term = term * (m - k + 1) / k * p / (1 - p)
    end
    n, sum = n - m, sum + k
  end
  return sum
end

--- Tokens of all ranks: drawn multinomially, or dealt, so that ranks differ by one at most.
-- : number, number, integer, integer
function Counts:spread(step, layer, expert, tokens)
  if tokens > MOST then self:fail('expert %d has %.0f tokens', expert, tokens) end
  local ranks, left = self.o.ranks, tokens
  for rank = 0, ranks - 1 do
    local share
    if self.o.draw then
      share = binomial(self, left, 1 / (ranks - rank))
    else
      share = math.floor((tokens + (rank + expert) % ranks) / ranks)
    end
    left = left - share
    self:add(self:row(step, layer, rank), expert, share)
  end
end

--- ---- the whole ---------------------------------------------------------------------------------

local function sorted(set)
  local list = {}
  for id in pairs(set) do list[#list + 1] = id end
  table.sort(list)
  return list
end

--- Ranks that have a layer in a step, in order.
local function ranks_of(self, step, layer)
  return sorted(self.rows[step][layer] or {})
end

local function same(a, b)
  if #a ~= #b then return false end
  for i, value in ipairs(a) do
    if b[i] ~= value then return false end
  end
  return true
end

--- Steps that lack layers at the end of a recording that was broken off are left out.
local function drop_last(self, layers)
  local last = self.steps[#self.steps]
  local count = 0
  for _ in pairs(self.rows[last]) do count = count + 1 end
  if count == #layers or #self.steps == 1 then return end
  self.notes[#self.notes + 1] = ('step %d lacks layers and is left out'):format(last)
  self.rows[last], self.steps[#self.steps] = nil, nil
end

--- Of every layer its ranks, which must be the same in all steps and as many in all layers: with
-- pipeline parallelism each layer has its own.
local function check_rows(self, layers)
  local of_layer, first = {}, nil
  for _, layer in ipairs(layers) do
    for _, step in ipairs(self.steps) do
      local ranks = ranks_of(self, step, layer)
      of_layer[layer] = of_layer[layer] or ranks
      if not same(ranks, of_layer[layer]) then
        self:fail('step %d, layer %d: there are loads of %d ranks; in other steps of %d', step,
          layer, #ranks, #of_layer[layer])
      end
    end
    first = first or of_layer[layer]
    if #of_layer[layer] ~= #first then
      self:fail('layer %d has loads of %d ranks, layer %d of %d', layers[1], #first, layer,
        #of_layer[layer])
    end
  end
  return of_layer, #first
end

local function note_ids(self, what, list)
  if list[1] == 0 and list[#list] == #list - 1 then return end
  self.notes[#self.notes + 1] = ('%ss %d to %d are renumbered 0 to %d'):format(what, list[1],
    list[#list], #list - 1)
end

--- The whole, once all has been added: steps, layers, ranks, experts, notes (a list), and
-- load(step, layer, out). Raises FORMAT where rows are missing. metadata: what readers have found.
-- : -> table
function Counts:finish()
  table.sort(self.steps)
  local layers = sorted(self.layers)
  if #self.steps == 0 then self:fail 'there are no loads in it' end
  drop_last(self, layers)
  local of_layer, ranks = check_rows(self, layers)
  local experts = self.o.experts or math.max(self.known, self.largest + 1)
  note_ids(self, 'step', self.steps)
  note_ids(self, 'layer', layers)
  if ranks < #sorted(self.ranks) then
    self.notes[#self.notes + 1] = ('each layer is on %d of the %d ranks, which are renumbered')
      :format(ranks, #sorted(self.ranks))
  else
    note_ids(self, 'rank', sorted(self.ranks))
  end
  if not self.o.experts and self.known == 0 then
    self.notes[#self.notes + 1] = ('%d experts: the largest id and one (--experts says otherwise)')
      :format(experts)
  end
  local rows, steps = self.rows, self.steps
  return { steps = #steps, layers = #layers, ranks = ranks, experts = experts, notes = self.notes,
    metadata = self.metadata, load = function(_, step, layer, out)
      local of_ranks = rows[steps[step + 1]][layers[layer + 1]]
      for r, rank in ipairs(of_layer[layers[layer + 1]]) do
        local row = of_ranks[rank]
        for e = 0, experts - 1 do
          local tokens = e < row.room and row.load[e] or 0
          if tokens > MOST then self:fail('expert %d has %s tokens', e, tostring(tokens)) end
          out[(r - 1) * experts + e] = tokens
        end
      end
      return out
    end }
end

return Counts

-- SPDX-License-Identifier: Apache-2.0

--- Splits: how many tokens of every source rank go to every slot.
--
--   local s = split.open(topology, 'minimax')
--   s:set_price(0.5)                  -- of work across nodes (minimax); neap.h says what it means
--   s:compute(layout, load)           -- load: exact tokens [ranks][experts]
--   s:row(source)                     -- int64_t[slots]: tokens of a source to every slot
--   s:column(rank)                    -- int64_t[ranks][slots of rank]: what a rank's slots get
--   s:slot_tokens()                   -- int64_t[slots]
--   s:balance()                       -- { imbalance=, max_work=, …, inter_node=, remote= }
--   s:set(layout, load, tokens)       -- a split of one's own, [ranks][slots]
--   split.rules()                     -- { 'lite', 'even', … }

local lib = require 'neap.base.lib'
local matrix = require 'neap.engine.matrix'

local ffi, C = lib.ffi, lib.C

local split = {}

local Split = {}
Split.__index = Split

--- Names of the built-in rules; neap.h says what they do.
-- : -> list of string
function split.rules()
  return lib.names(C.neap_split_rule_count, C.neap_split_rule_name)
end

--- A split by a rule ('lite', 'even', 'local', 'minimax'), empty before it is computed.
-- : Topology, string -> Split
function split.open(topology, rule)
  lib.check_name(rule, split.rules(), "split: no rule is called '%s'%s; known are %s", 2)
  local out = ffi.new 'neap_split *[1]'
  lib.check(C.neap_split_open(topology.ptr, rule, out), 2)
  local self = lib.handle(Split, out[0], C.neap_split_close)
  self.topology, self.rule, self.result = topology, rule, ffi.new 'neap_balance'
  return self
end

--- price: 0 (least max work first) to math.huge (as local). Raises ARGUMENT.
-- : number -> Split
function Split:set_price(price)
  lib.check(C.neap_split_set_price(self.ptr, price), 2)
  return self
end

local function read_load(self, load)
  return matrix.matrix(load, self.topology.ranks, self.topology.experts, 'int64_t', 'split: load')
end

--- load: whole tokens, as engine/matrix.lua reads them. Computes what is common to all ranks.
-- : Layout, matrix -> Split
function Split:compute(layout, load)
  lib.check(C.neap_split_compute(self.ptr, layout.ptr, read_load(self, load)), 2)
  return self
end

--- Takes a given split instead: tokens [ranks][slots]. Raises SPLIT.
-- : Layout, matrix, matrix -> Split
function Split:set(layout, load, tokens)
  local t = self.topology
  lib.check(C.neap_split_set(self.ptr, layout.ptr, read_load(self, load),
    matrix.matrix(tokens, t.ranks, t.slots, 'int64_t', 'split: tokens')), 2)
  return self
end

--- out: int64_t[slots] to write to, else a new one.
-- : integer, int64_t[slots]? -> int64_t[slots]
function Split:row(source, out)
  out = out or ffi.new('int64_t[?]', self.topology.slots)
  lib.check(C.neap_split_row(self.ptr, source, out), 2)
  return out
end

--- out: int64_t[ranks * slots of rank], else a new one.
-- : integer, int64_t[]? -> int64_t[]
function Split:column(rank, out)
  out = out or ffi.new('int64_t[?]', self.topology.ranks * self.topology:slots_of(rank))
  lib.check(C.neap_split_column(self.ptr, rank, out), 2)
  return out
end

--- Tokens of every slot from all sources; out: to write to, else a new array.
-- : int64_t[slots]? -> int64_t[slots]
function Split:slot_tokens(out)
  out = out or ffi.new('int64_t[?]', self.topology.slots)
  lib.check(C.neap_split_slot_tokens(self.ptr, out), 2)
  return out
end

--- What the split costs, as neap.h defines it: max_work, mean_work, imbalance, std_percent, and
-- tokens, of them inter_node and remote.
-- : -> table
function Split:balance()
  local b = self.result
  lib.check(C.neap_split_balance(self.ptr, b), 2)
  return {
    max_work = b.max_work, mean_work = b.mean_work, imbalance = b.imbalance,
    std_percent = b.std_percent, tokens = tonumber(b.tokens), inter_node = tonumber(b.inter_node),
    remote = tonumber(b.remote),
  }
end

--- Frees the split.
function Split:close()
  lib.close(self)
end

return split

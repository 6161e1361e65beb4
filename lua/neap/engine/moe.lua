-- SPDX-License-Identifier: Apache-2.0

--- One Mixture-of-Experts layer over the ranks, in phases, so that a recipe can move parameters in
-- between (neap.h tells what each does):
--
--   local layer = moe.open { comm =, topology =, hidden = 64, ffn = { 128, … }, top_k = 2 }
--   layer:route(x, router)
--   split:compute(layout, layer:load())
--   layer:dispatch(x, layout, split)            -- tokens travel
--   …                                           -- start the next layer's unshard
--   layer:forward(weights, y)
--   layer:backward_dispatch(dy)
--   layer:backward(x, router, weights, gradients, dx, drouter)
--   store:reduce_start(layout, gradients, layer:slot_tokens())
--
-- All phases are collective. weights and gradients: buffers of neap.shards.

local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local tensor = require 'neap.engine.tensor'

local ffi, C, check = lib.ffi, lib.C, lib.check

local moe = {}

local Moe = {}
Moe.__index = Moe
moe.Moe = Moe

local SPEC = {
  comm = { needed = true }, topology = { needed = true }, hidden = { needed = true },
  top_k = { needed = true }, ffn = { type = 'table', needed = true },
  dtype = { default = 'f32', choices = tensor.reals }, renormalise = { default = true },
  scores = { default = 'softmax', choices = { 'softmax', 'sigmoid' } },
  router_f32 = { default = false },
  exact = {}, aux_loss = { default = 0 }, chunks = { default = 1 }, hold_combine = {},
  recompute = {}, balanced = { default = false },
  travel = { default = 'dtype', choices = { 'dtype', 'fp8' } },
}

local out = ffi.new 'neap_moe *[1]'
local costs = ffi.new 'neap_moe_costs'

local function flag(value)
  return value and 1 or 0
end

--- hidden: H. ffn: F of every expert, a list. top_k: experts per token. renormalise (true): the
-- weights of a token's experts add up to 1. scores: 'softmax' (default) of a token's logits, or of
-- each its 'sigmoid'. dtype: 'f32' (default), 'f64' or 'bf16'. router_f32: of bf16, the router's
-- parameters are f32, and so is what is computed with them. exact: weight gradients do not depend
-- on layout, split and ranks. aux_loss (0): coefficient of the load-balance loss. chunks (1):
-- exchanges that tokens travel in. hold_combine: gradients of tokens travel back after those of
-- weights are computed. recompute: the backward computes the experts' hidden values again.
-- balanced: choices are replaced, so that every expert gets as many tokens. travel: how tokens do
-- to their experts, 'dtype' (default) or 'fp8' (E4M3; neap.h).
-- comm: for tokens; stores need another one.
-- : table -> Moe
function moe.open(given)
  local o = options.check(given, SPEC, 'moe')
  local experts = C.neap_topology_experts(o.topology.ptr)
  if #o.ffn ~= experts then
    lib.raise('ARGUMENT', ('moe: ffn has %d sizes; there are %d experts'):format(#o.ffn,
      experts), 2)
  end
  local settings = ffi.new('neap_moe_options', {
    hidden = o.hidden, top_k = o.top_k, chunks = o.chunks, dtype = tensor.codes[o.dtype],
    scoring = o.scores == 'sigmoid' and C.NEAP_SIGMOID or C.NEAP_SOFTMAX,
    router_acc = flag(o.router_f32),
    exact = flag(o.exact), renormalise = flag(o.renormalise), aux_loss = o.aux_loss,
    hold_combine = flag(o.hold_combine), recompute = flag(o.recompute),
    balanced = flag(o.balanced),
    travel = o.travel == 'fp8' and C.NEAP_TRAVEL_E4M3 or C.NEAP_TRAVEL_DTYPE,
  })
  check(C.neap_moe_open(o.comm.ptr, o.topology.ptr, settings,
    ffi.new('int64_t[?]', experts, o.ffn), out), 2)
  return lib.handle(Moe, out[0], C.neap_moe_close)
end

--- Slots whose expert is resident on this rank are computed with the parameters of the store of the
-- layer's experts, which is closed after the layer.
-- : Shards
function Moe:set_shards(store)
  check(C.neap_moe_set_shards(self.ptr, store.ptr), 2)
  self.shards = store
end

--- From the next dispatch on tokens travel so, 'dtype' or 'fp8'; the same on all ranks.
-- : string
function Moe:set_travel(travel)
  check(C.neap_moe_set_travel(self.ptr,
    travel == 'fp8' and C.NEAP_TRAVEL_E4M3 or C.NEAP_TRAVEL_DTYPE), 2)
end

--- Waits for an exchange under way, then closes. Local.
function Moe:close()
  lib.close(self)
end

--- Chooses the experts of this rank's tokens x (T, H) and counts all ranks' choices.
-- : Tensor, Tensor
function Moe:route(x, router)
  check(C.neap_moe_route(self.ptr, x.ptr, router.ptr), 2)
end

--- int64_t [ranks][experts]: tokens of every rank for every expert, since the last route.
-- : -> int64_t[ranks * experts]
function Moe:load()
  return C.neap_moe_load(self.ptr)
end

--- int32_t [T][K]: the experts of this rank's tokens, since the last route.
-- : -> int32_t[tokens * top_k]
function Moe:choices()
  return C.neap_moe_choices(self.ptr)
end

--- The load-balance loss, times its coefficient, since the last route.
-- : -> number
function Moe:aux_loss()
  return C.neap_moe_aux_loss(self.ptr)
end

--- double [experts]: added to the scores where experts are chosen, not in their weights; 0 at
-- first. Whoever writes it does so between steps, the same on all ranks.
function Moe:bias()
  return C.neap_moe_bias(self.ptr)
end

--- After a step: by speed, raises the bias of experts that had fewer tokens than the mean since the
-- last route and lowers that of those that had more (Wang et al. 2024).
-- : number
function Moe:adapt_bias(speed)
  check(C.neap_moe_adapt_bias(self.ptr, speed), 2)
end

--- Starts to send the tokens where the split says.
-- : Tensor, Layout, Split
function Moe:dispatch(x, layout, split)
  check(C.neap_moe_dispatch(self.ptr, x.ptr, layout.ptr, split.ptr), 2)
end

--- int64_t [S]: tokens of every slot of all ranks, since the last dispatch.
-- : -> int64_t[slots]
function Moe:slot_tokens()
  return C.neap_moe_slot_tokens(self.ptr)
end

--- The C side of an unshard that is perhaps none.
local function pointer(transfer)
  return transfer and transfer.ptr or nil
end

--- y (T, H) = the weighted sum of the experts' outputs. arriving: the unshard that fills weights,
-- unless it has been waited for; a slot is computed when it has arrived.
-- : Tensor, Tensor, Transfer? -> Tensor
function Moe:forward(weights, y, arriving)
  check(C.neap_moe_forward(self.ptr, weights.ptr, pointer(arriving), y.ptr), 2)
  return y
end

--- Starts to send gradients of the experts' outputs.
-- : Tensor
function Moe:backward_dispatch(dy)
  check(C.neap_moe_backward_dispatch(self.ptr, dy.ptr), 2)
end

--- Writes dx and the gradients of slots that had tokens; adds to drouter. arriving: as in forward.
-- : Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Transfer? -> Tensor
function Moe:backward(x, router, weights, gradients, dx, drouter, arriving)
  check(C.neap_moe_backward(self.ptr, x.ptr, router.ptr, weights.ptr, pointer(arriving),
    gradients.ptr, dx.ptr, drouter.ptr), 2)
  return dx
end

--- What this rank has spent so far: seconds in the experts' products, and bytes of tokens sent.
-- : -> number, integer
function Moe:cost()
  check(C.neap_moe_cost(self.ptr, costs), 2)
  return { experts = costs.experts, sent = tonumber(costs.sent) }
end

return moe

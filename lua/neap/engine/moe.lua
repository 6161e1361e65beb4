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

local ffi, C, check = lib.ffi, lib.C, lib.check

local moe = {}

local Moe = {}
Moe.__index = Moe
moe.Moe = Moe

local DTYPES = { bf16 = C.NEAP_BF16, f32 = C.NEAP_F32, f64 = C.NEAP_F64 }
local OPTIONS = {
  'aux_loss', 'chunks', 'comm', 'dtype', 'exact', 'ffn', 'hidden', 'hold_combine',
  'recompute', 'renormalise', 'top_k', 'topology',
}

local out = ffi.new 'neap_moe *[1]'
local costs = ffi.new 'neap_moe_costs'

local function check_options(given)
  local known = {}
  for _, name in ipairs(OPTIONS) do known[name] = true end
  for _, name in ipairs(lib.sorted_keys(given)) do
    if not known[name] then
      lib.raise('ARGUMENT', ("moe: unknown option '%s'%s"):format(name, lib.hint(name, OPTIONS)), 3)
    end
  end
end

local function dtype_code(name)
  if not DTYPES[name] then
    lib.raise('ARGUMENT', ("moe: type '%s' is unknown; there are bf16, f32, f64"):format(
      tostring(name)), 3)
  end
  return DTYPES[name]
end

local function flag(value)
  return value and 1 or 0
end

--- hidden: H. ffn: F of every expert, a list. top_k: experts a token. renormalise (true): the
-- weights of a token's experts add up to 1. dtype: 'f32' (default), 'f64' or 'bf16'. exact:
-- weight gradients do not depend on layout, split and ranks. aux_loss (0): coefficient of the
-- load-balance loss. chunks (1): exchanges that tokens travel in. hold_combine: gradients of tokens
-- travel back after those of weights are computed. recompute: the backward computes the experts'
-- hidden values again. comm: for tokens; stores need another one.
function moe.open(options)
  check_options(options)
  local experts = C.neap_topology_experts(options.topology.ptr)
  if #options.ffn ~= experts then
    lib.raise('ARGUMENT', ('moe: ffn has %d sizes; there are %d experts'):format(#options.ffn,
      experts), 2)
  end
  local settings = ffi.new('neap_moe_options', {
    hidden = options.hidden, top_k = options.top_k, chunks = options.chunks or 1,
    dtype = dtype_code(options.dtype or 'f32'), exact = flag(options.exact),
    renormalise = flag(options.renormalise ~= false), aux_loss = options.aux_loss or 0,
    hold_combine = flag(options.hold_combine), recompute = flag(options.recompute),
  })
  check(C.neap_moe_open(options.comm.ptr, options.topology.ptr, settings,
    ffi.new('int64_t[?]', experts, options.ffn), out), 2)
  return lib.handle(Moe, out[0], C.neap_moe_close)
end

--- Waits for an exchange under way, then closes. Local.
function Moe:close()
  lib.close(self)
end

--- Chooses the experts of this rank's tokens x (T, H) and counts all ranks' choices.
function Moe:route(x, router)
  check(C.neap_moe_route(self.ptr, x.ptr, router.ptr), 2)
end

--- int64_t [ranks][experts]: tokens of every rank for every expert, since the last route.
function Moe:load()
  return C.neap_moe_load(self.ptr)
end

--- int32_t [T][K]: the experts of this rank's tokens, since the last route.
function Moe:choices()
  return C.neap_moe_choices(self.ptr)
end

--- The load-balance loss, times its coefficient, since the last route.
function Moe:aux_loss()
  return C.neap_moe_aux_loss(self.ptr)
end

--- Starts to send the tokens where the split says.
function Moe:dispatch(x, layout, split)
  check(C.neap_moe_dispatch(self.ptr, x.ptr, layout.ptr, split.ptr), 2)
end

--- int64_t [S]: tokens of every slot of all ranks, since the last dispatch.
function Moe:slot_tokens()
  return C.neap_moe_slot_tokens(self.ptr)
end

--- The C side of an unshard that is perhaps none.
local function pointer(transfer)
  return transfer and transfer.ptr or nil
end

--- y (T, H) = the weighted sum of the experts' outputs. arriving: the unshard that fills weights,
-- unless it has been waited for; a slot is computed when it has arrived.
function Moe:forward(weights, y, arriving)
  check(C.neap_moe_forward(self.ptr, weights.ptr, pointer(arriving), y.ptr), 2)
  return y
end

--- Starts to send gradients of the experts' outputs.
function Moe:backward_dispatch(dy)
  check(C.neap_moe_backward_dispatch(self.ptr, dy.ptr), 2)
end

--- Writes dx and the gradients of slots that had tokens; adds to drouter. arriving: as in forward.
function Moe:backward(x, router, weights, gradients, dx, drouter, arriving)
  check(C.neap_moe_backward(self.ptr, x.ptr, router.ptr, weights.ptr, pointer(arriving),
    gradients.ptr, dx.ptr, drouter.ptr), 2)
  return dx
end

--- What this rank has spent so far: seconds in route (router, permutation, combine), experts and
-- waited; flops of the experts; rows (tokens computed here); bytes sent, and sent_inter to other
-- nodes.
function Moe:cost()
  check(C.neap_moe_cost(self.ptr, costs), 2)
  local result = {}
  for _, name in ipairs { 'route', 'experts', 'waited', 'flops', 'rows', 'sent', 'sent_inter' } do
    result[name] = tonumber(costs[name])
  end
  return result
end

return moe

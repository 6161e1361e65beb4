-- SPDX-License-Identifier: Apache-2.0

--- Operations over tensors, as neap.h describes them: they check shapes, write to their outputs and
-- block. Outputs come last.

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local ops = {}

local function pointer(t)
  return t and t.ptr
end

local function flag(value)
  return value and 1 or 0
end

--- y = x w.
-- : Tensor, Tensor, Tensor -> Tensor
function ops.linear(x, w, y)
  check(C.neap_op_linear(x.ptr, w.ptr, y.ptr), 2)
  return y
end

--- dx = dy w^T; with accumulate it is added.
-- : Tensor, Tensor, Tensor, boolean? -> Tensor
function ops.linear_input_grad(dy, w, dx, accumulate)
  check(C.neap_op_linear_input_grad(dy.ptr, w.ptr, dx.ptr, flag(accumulate)), 2)
  return dx
end

--- dw = x^T dy; with accumulate it is added.
-- : Tensor, Tensor, Tensor, boolean? -> Tensor
function ops.linear_weight_grad(x, dy, dw, accumulate)
  check(C.neap_op_linear_weight_grad(x.ptr, dy.ptr, dw.ptr, flag(accumulate)), 2)
  return dw
end

--- y[t] = table[ids[t]].
-- : Tensor, Tensor, Tensor -> Tensor
function ops.embedding(ids, table, y)
  check(C.neap_op_embedding(ids.ptr, table.ptr, y.ptr), 2)
  return y
end

--- Adds dy[t] to dtable[ids[t]].
-- : Tensor, Tensor, Tensor -> Tensor
function ops.embedding_grad(ids, dy, dtable)
  check(C.neap_op_embedding_grad(ids.ptr, dy.ptr, dtable.ptr), 2)
  return dtable
end

--- y = gain x / rms(x) by rows; rstd (T): 1 / rms, for the gradient.
-- : Tensor, Tensor, number, Tensor, Tensor -> Tensor
function ops.rmsnorm(x, gain, eps, y, rstd)
  check(C.neap_op_rmsnorm(x.ptr, gain.ptr, eps, y.ptr, rstd.ptr), 2)
  return y
end

--- Writes dx; adds to dgain, which may be nil.
-- : Tensor, Tensor, Tensor, Tensor, Tensor, Tensor? -> Tensor
function ops.rmsnorm_grad(x, gain, rstd, dy, dx, dgain)
  check(C.neap_op_rmsnorm_grad(x.ptr, gain.ptr, rstd.ptr, dy.ptr, dx.ptr, pointer(dgain)), 2)
  return dx
end

--- What the gradient of gain sums over tokens.
-- : Tensor, Tensor, Tensor, Tensor -> Tensor
function ops.rmsnorm_gain_terms(x, rstd, dy, terms)
  check(C.neap_op_rmsnorm_gain_terms(x.ptr, rstd.ptr, dy.ptr, terms.ptr), 2)
  return terms
end

--- Fills table (positions, D) with the cosines and sines of rotary embeddings.
-- : number, Tensor -> Tensor
function ops.rotary_table(base, table)
  check(C.neap_op_rotary_table(base, table.ptr), 2)
  return table
end

--- Turns the first heads of each row in place; inverse turns back.
-- : Tensor, integer, Tensor, boolean? -> Tensor
function ops.rotary(x, heads, table, inverse)
  check(C.neap_op_rotary(x.ptr, heads, table.ptr, flag(inverse)), 2)
  return x
end

--- Causal attention within sequences; qkv: queries, keys and values side by side.
-- : Tensor, integer, integer, integer, Tensor, Tensor -> Tensor
function ops.attention(qkv, heads, kv_heads, sequence, y, lse)
  check(C.neap_op_attention(qkv.ptr, heads, kv_heads, sequence, y.ptr, lse.ptr), 2)
  return y
end

--- Writes the gradient of qkv, from attention's y and lse and the gradient dy of y.
-- : Tensor, Tensor, Tensor, Tensor, integer, integer, integer, Tensor -> Tensor
function ops.attention_grad(qkv, y, lse, dy, heads, kv_heads, sequence, dqkv)
  check(C.neap_op_attention_grad(qkv.ptr, y.ptr, lse.ptr, dy.ptr, heads, kv_heads, sequence,
    dqkv.ptr), 2)
  return dqkv
end

--- Loss of each token, and factor x its gradient; either may be nil, dlogits may be logits.
-- : Tensor, Tensor, number, Tensor?, Tensor?
function ops.cross_entropy(logits, target, factor, loss, dlogits)
  check(C.neap_op_cross_entropy(logits.ptr, target.ptr, factor, pointer(loss), pointer(dlogits)), 2)
end

--- y = a + b; y may be a or b.
-- : Tensor, Tensor, Tensor -> Tensor
function ops.add(a, b, y)
  check(C.neap_op_add(a.ptr, b.ptr, y.ptr), 2)
  return y
end

--- y (T, F) = silu(gate) * up of gate_up (T, 2F), gate columns first.
-- : Tensor, Tensor -> Tensor
function ops.swiglu(gate_up, y)
  check(C.neap_op_swiglu(gate_up.ptr, y.ptr), 2)
  return y
end

--- dgate_up may be gate_up.
-- : Tensor, Tensor, Tensor -> Tensor
function ops.swiglu_grad(gate_up, dy, dgate_up)
  check(C.neap_op_swiglu_grad(gate_up.ptr, dy.ptr, dgate_up.ptr), 2)
  return dgate_up
end

local result = ffi.new 'double[1]'

--- Sum of squares, in double.
-- : Tensor -> number
function ops.sum_squares(x)
  check(C.neap_op_sum_squares(x.ptr, result), 2)
  return result[0]
end

--- One step of AdamW; settings: a neap_adamw.
-- : neap_adamw, Tensor, Tensor, Tensor, Tensor
function ops.adamw(settings, grad, param, m, v)
  check(C.neap_op_adamw(settings, grad.ptr, param.ptr, m.ptr, v.ptr), 2)
end

return ops

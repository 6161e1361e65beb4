/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations of bf16: slot after slot. */
#include "bf16.h"

#include "per_expert.h"

static const neapi_expert_ops ops = {sizeof(bf16),  sizeof(float), BF16(gemm),
                                     BF16(gemm_tn), BF16(swiglu),  BF16(swiglu_backward),
                                     BF16(row_dots)};

int BF16(experts_forward)(const neapi_slots *slots, const void *weights, const void *in,
                          void *gate_up, void *activation, void *out, STREAM)
{
  return neapi_per_expert_forward(&ops, slots, weights, in, gate_up, activation, out, NULL);
}

int BF16(experts_backward)(const neapi_slots *slots, const void *weights, const void *dout,
                           void *gate_up, void *activation, void *dactivation, void *din,
                           void *dlog, STREAM)
{
  return neapi_per_expert_backward(&ops, slots, weights, dout, gate_up, activation, dactivation,
                                   din, dlog, NULL);
}

int BF16(experts_gradients)(const neapi_slots *slots, const void *in, const void *dgate_up,
                            const void *activation, const void *dout, void *gradients, STREAM)
{
  return neapi_per_expert_gradients(&ops, slots, in, dgate_up, activation, dout, gradients, NULL);
}

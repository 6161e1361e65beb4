/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations on the CPU: slot after slot. */
#include "per_expert.h"
#include "real.h"

static const neapi_expert_ops ops = {sizeof(real),  sizeof(real), NAME(gemm),
                                     NAME(gemm_tn), NAME(swiglu), NAME(swiglu_backward),
                                     NAME(row_dots)};

int NAME(experts_forward)(const neapi_slots *slots, const void *weights, const void *in,
                          void *gate_up, void *activation, void *out, STREAM)
{
  return neapi_per_expert_forward(&ops, slots, weights, in, gate_up, activation, out, NULL);
}

int NAME(experts_backward)(const neapi_slots *slots, const void *weights, const void *dout,
                           void *gate_up, void *activation, void *dactivation, void *din,
                           void *dlog, STREAM)
{
  return neapi_per_expert_backward(&ops, slots, weights, dout, gate_up, activation, dactivation,
                                   din, dlog, NULL);
}

int NAME(experts_gradients)(const neapi_slots *slots, const void *in, const void *dgate_up,
                            const void *activation, const void *dout, void *gradients, STREAM)
{
  return neapi_per_expert_gradients(&ops, slots, in, dgate_up, activation, dout, gradients, NULL);
}

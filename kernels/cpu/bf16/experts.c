/* The experts' operations of bf16: slot after slot. */
#include "bf16.h"

#include "per_expert.h"

int BF16(experts_forward)(const neapi_slots *slots, const void *weights, const void *in,
                          void *gate_up, void *activation, void *out, STREAM)
{
  return neapi_by_slot_forward(neapi_kernels_bf16(), slots, weights, in, gate_up, activation, out,
                               NULL);
}

int BF16(experts_backward)(const neapi_slots *slots, const void *weights, const void *dout,
                           void *gate_up, void *activation, void *slope, void *din, STREAM)
{
  return neapi_by_slot_backward(neapi_kernels_bf16(), slots, weights, dout, gate_up, activation,
                                slope, din, NULL);
}

int BF16(experts_gradients)(const neapi_slots *slots, const void *in, const void *dgate_up,
                            const void *activation, const void *dout, void *gradients, STREAM)
{
  return neapi_by_slot_gradients(neapi_kernels_bf16(), slots, in, dgate_up, activation, dout,
                                 gradients, NULL);
}

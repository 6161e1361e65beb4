/* The experts' operations on the CPU: slot after slot. */
#include "per_expert.h"
#include "real.h"

int NAME(experts_forward)(const neapi_slots *slots, const void *weights, const void *in,
                          void *gate_up, void *activation, void *out, STREAM)
{
  return neapi_by_slot_forward(NAME(kernels)(), slots, weights, in, gate_up, activation, out, NULL);
}

int NAME(experts_backward)(const neapi_slots *slots, const void *weights, const void *dout,
                           void *gate_up, void *activation, void *slope, void *din, STREAM)
{
  return neapi_by_slot_backward(NAME(kernels)(), slots, weights, dout, gate_up, activation, slope,
                                din, NULL);
}

int NAME(experts_gradients)(const neapi_slots *slots, const void *in, const void *dgate_up,
                            const void *activation, const void *dout, void *gradients, STREAM)
{
  return neapi_by_slot_gradients(NAME(kernels)(), slots, in, dgate_up, activation, dout, gradients,
                                 NULL);
}

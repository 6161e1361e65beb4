/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations on Hopper, for bf16: those of the same names in kernels.h, for all slots
 * whose experts have a certain F, in one launch per product. Gradients are float. */
#ifndef NEAPI_HOPPER_EXPERTS_H
#define NEAPI_HOPPER_EXPERTS_H

#include "../cuda.cuh"

/* Whether these operations can be done here: sizes that are multiples of 8, and a Hopper GPU. That
 * depends on the layer, the expert and the GPU alone. */
bool neapi_hopper_fits(const neapi_slots *slots, int64_t f);

int neapi_hopper_forward(const neapi_slots *slots, int64_t f, const void *weights, const void *in,
                         void *gate_up, void *activation, void *out, void *stream);
int neapi_hopper_backward(const neapi_slots *slots, int64_t f, const void *weights,
                          const void *dout, void *gate_up, void *activation, void *din, void *dlog,
                          void *stream);
int neapi_hopper_gradients(const neapi_slots *slots, int64_t f, const void *in,
                           const void *dgate_up, const void *activation, const void *dout,
                           void *gradients, void *stream);

#endif

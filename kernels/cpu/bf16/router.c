/* SPDX-License-Identifier: Apache-2.0 */
/* Router with gradients of bf16; float's does the forward. */
#include "bf16.h"

int BF16(router_backward)(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise,
                          const void *scores, const int32_t *ids, const void *weights,
                          const int32_t *position, const void *dlog, const void *dshares,
                          void *dlogits, STREAM)
{
  float *grads = neapi_bf16_scratch(FIRST, t * e);
  if (!grads)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(router_backward)(t, e, k, sigmoid, renormalise, scores, ids, weights, position,
                                      dlog, dshares, grads, NULL);
  return narrow_all(status, t * e, grads, dlogits);
}

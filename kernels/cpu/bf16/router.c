/* Router with gradients of bf16; float's does the forward. */
#include "bf16.h"

int BF16(router_backward)(int64_t t, int64_t e, int64_t k, int renormalise, const void *probs,
                          const int32_t *ids, const void *weights, const int32_t *position,
                          const void *dlog, const void *dprobs, void *dlogits, STREAM)
{
  float *grads = neapi_bf16_scratch(FIRST, t * e);
  if (!grads)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(router_backward)(t, e, k, renormalise, probs, ids, weights, position, dlog,
                                      dprobs, grads, NULL);
  return narrow_all(status, t * e, grads, dlogits);
}

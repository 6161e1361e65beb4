/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-entropy with gradients of bf16. */
#include "bf16.h"

int BF16(cross_entropy)(int64_t t, int64_t v, double factor, const void *logits,
                        const int32_t *target, void *loss, void *dlogits, STREAM)
{
  float *grads = dlogits ? neapi_bf16_scratch(FIRST, t * v) : NULL;
  if (dlogits && !grads)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(cross_entropy)(t, v, factor, logits, target, loss, grads, NULL);
  return dlogits ? narrow_all(status, t * v, grads, dlogits) : status;
}

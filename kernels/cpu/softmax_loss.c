/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax cross-entropy. */
#include "row.h"

#include <math.h>

/* Logits whose exponentials are kept at a time. */
enum { CHUNK = 256 };

/* Sum of exp(x - shift); the exponentials go to `exps`, or nowhere if it is NULL. x may be exps. */
static real sum_exp(int64_t n, const real *x, real shift, real *exps)
{
  real chunk[CHUNK], sum = 0;
  for (int64_t first = 0; first < n; first += CHUNK) {
    int64_t size = n - first < CHUNK ? n - first : CHUNK;
    for (int64_t i = 0; i < size; i++)
      chunk[i] = real_exp(x[first + i] - shift);
    if (exps)
      memcpy(exps + first, chunk, (size_t)size * sizeof(real));
    sum += row_sum(size, chunk);
  }
  return sum;
}

/* One token; returns its loss. */
static real token_loss(int64_t v, real factor, const real *logits, int32_t target, real *dlogits)
{
  if (target < 0) {
    if (dlogits)
      memset(dlogits, 0, (size_t)v * sizeof(real));
    return 0;
  }
  real of_target = logits[target], max = row_max(v, logits);
  real sum = sum_exp(v, logits, max, dlogits);
  for (int64_t i = 0; dlogits && i < v; i++)
    dlogits[i] = factor * (dlogits[i] / sum);
  if (dlogits)
    dlogits[target] -= factor;
  return (real)(log((double)sum) + ((double)max - (double)of_target));
}

int NAME(cross_entropy)(int64_t t, int64_t v, double factor, const void *logits,
                        const int32_t *target, void *loss, void *dlogits, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    real *to = dlogits ? (real *)dlogits + i * v : NULL;
    real of_token = token_loss(v, (real)factor, (const real *)logits + i * v, target[i], to);
    if (loss)
      ((real *)loss)[i] = of_token;
  }
  return NEAPI_KERNEL_OK;
}

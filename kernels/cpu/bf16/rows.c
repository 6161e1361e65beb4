/* Rows by index, elementwise operations, loss and router of bf16. */
#include "bf16.h"

int BF16(gather)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    memcpy((bf16 *)out + i * h, (const bf16 *)x + index[i] * h, (size_t)h * sizeof(bf16));
  return NEAPI_KERNEL_OK;
}

int BF16(scatter)(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                  void *out, STREAM)
{
  for (int64_t i = 0; i < t * k; i++)
    memcpy((bf16 *)out + position[i] * h, (const bf16 *)x + i / k * h, (size_t)h * sizeof(bf16));
  return NEAPI_KERNEL_OK;
}

int BF16(scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, STREAM)
{
  float *wide = widen_all(FIRST, n * h, x);
  return wide ? FLOAT(scatter_add)(n, h, index, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(combine)(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                  const void *x, void *y, STREAM)
{
  const float *w = weights;
  for (int64_t i = 0; i < t; i++)
    for (int64_t j = 0; j < h; j++) {
      float sum = 0;
      for (int64_t c = 0; c < k; c++)
        sum += (w ? w[i * k + c] : 1) * widen(((const bf16 *)x)[position[i * k + c] * h + j]);
      ((bf16 *)y)[i * h + j] = narrow(sum);
    }
  return NEAPI_KERNEL_OK;
}

/* Float's launcher sees one choice at a time, so that a row of x is all that is widened. */
int BF16(combine_backward)(int64_t t, int64_t k, int64_t h, const void *weights,
                           const int32_t *position, const void *x, const void *dy, void *dx,
                           void *dweights, STREAM)
{
  static const int32_t first = 0;
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < t * k; i++) {
    float *row = widen_all(FIRST, h, (const bf16 *)x + position[i] * h);
    float *slope = widen_all(SECOND, h, (const bf16 *)dy + i / k * h);
    float *out = neapi_bf16_room(THIRD, h);
    if (!row || !slope || !out)
      return NEAPI_KERNEL_MEMORY;
    status = FLOAT(combine_backward)(1, 1, h, (const float *)weights + i, &first, row, slope, out,
                                     (float *)dweights + i, NULL);
    status = narrow_all(status, h, out, (bf16 *)dx + position[i] * h);
  }
  return status;
}

int BF16(fill)(int64_t n, double value, void *x, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    BF16(from_double)(1, &value, (bf16 *)x + i, NULL);
  return NEAPI_KERNEL_OK;
}

int BF16(scale)(int64_t n, double factor, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow((float)factor * widen(((const bf16 *)x)[i]));
  return NEAPI_KERNEL_OK;
}

int BF16(add)(int64_t n, const void *a, const void *b, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow(widen(((const bf16 *)a)[i]) + widen(((const bf16 *)b)[i]));
  return NEAPI_KERNEL_OK;
}

int BF16(axpy)(int64_t n, double factor, const void *x, void *y_, STREAM)
{
  bf16 *y = y_;
  for (int64_t i = 0; i < n; i++)
    y[i] = narrow(widen(y[i]) + (float)factor * widen(((const bf16 *)x)[i]));
  return NEAPI_KERNEL_OK;
}

int BF16(sum)(int64_t n, int64_t count, const void *const *parts, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++) {
    float sum = 0;
    for (int64_t p = 0; p < count; p++)
      sum += widen(((const bf16 *)parts[p])[i]);
    ((bf16 *)out)[i] = narrow(sum);
  }
  return NEAPI_KERNEL_OK;
}

int BF16(swiglu)(int64_t t, int64_t f, const void *gu, void *h, STREAM)
{
  float *wide = widen_all(FIRST, t * 2 * f, gu), *out = neapi_bf16_room(SECOND, t * f);
  return wide && out ? narrow_all(FLOAT(swiglu)(t, f, wide, out, NULL), t * f, out, h)
                     : NEAPI_KERNEL_MEMORY;
}

int BF16(swiglu_backward)(int64_t t, int64_t f, const void *gu, const void *dh, void *dgu, STREAM)
{
  float *wide = widen_all(FIRST, t * 2 * f, gu), *slope = widen_all(SECOND, t * f, dh);
  if (!wide || !slope)
    return NEAPI_KERNEL_MEMORY;
  return narrow_all(FLOAT(swiglu_backward)(t, f, wide, slope, wide, NULL), t * 2 * f, wide, dgu);
}

int BF16(cross_entropy)(int64_t t, int64_t v, double factor, const void *logits,
                        const int32_t *target, void *loss, void *dlogits, STREAM)
{
  float *slopes = dlogits ? neapi_bf16_room(FIRST, t * v) : NULL;
  if (dlogits && !slopes)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(cross_entropy)(t, v, factor, logits, target, loss, slopes, NULL);
  return dlogits ? narrow_all(status, t * v, slopes, dlogits) : status;
}

int BF16(router_backward)(int64_t t, int64_t e, int64_t k, int renormalise, const void *probs,
                          const int32_t *ids, const void *weights, const void *dweights,
                          const void *dprobs, void *dlogits, STREAM)
{
  float *slopes = neapi_bf16_room(FIRST, t * e);
  if (!slopes)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(router_backward)(t, e, k, renormalise, probs, ids, weights, dweights, dprobs,
                                      slopes, NULL);
  return narrow_all(status, t * e, slopes, dlogits);
}

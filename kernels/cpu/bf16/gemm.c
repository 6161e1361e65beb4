/* Products, attention and normalisation of bf16. */
#include "bf16.h"

/* Both factors in float, dense. */
static int widen_factors(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                         const void *b, int64_t ldb, int trans_b, float **wide_a, float **wide_b)
{
  *wide_a = trans_a ? widen_rows(FIRST, k, m, a, lda) : widen_rows(FIRST, m, k, a, lda);
  *wide_b = trans_b ? widen_rows(SECOND, n, k, b, ldb) : widen_rows(SECOND, k, n, b, ldb);
  return *wide_a && *wide_b ? NEAPI_KERNEL_OK : NEAPI_KERNEL_MEMORY;
}

int BF16(gemm_stat)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                    const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
                    STREAM)
{
  float *wide_a, *wide_b;
  int status = widen_factors(m, n, k, a, lda, trans_a, b, ldb, trans_b, &wide_a, &wide_b);
  return status ? status
                : FLOAT(gemm)(m, n, k, wide_a, trans_a ? m : k, trans_a, wide_b, trans_b ? k : n,
                              trans_b, c, ldc, accumulate, NULL);
}

int BF16(gemm)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
               const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
               STREAM)
{
  float *out = accumulate ? widen_rows(THIRD, m, n, c, ldc) : neapi_bf16_room(THIRD, m * n);
  int status =
      out ? BF16(gemm_stat)(m, n, k, a, lda, trans_a, b, ldb, trans_b, out, n, accumulate, NULL)
          : NEAPI_KERNEL_MEMORY;
  if (!status)
    narrow_rows(m, n, out, c, ldc);
  return status;
}

int BF16(gemm_tn)(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda, const void *b,
                  int64_t ldb, void *c, int64_t ldc, int accumulate, STREAM)
{
  float *wide_a, *wide_b;
  int status = widen_factors(k, n, t, a, lda, 1, b, ldb, 0, &wide_a, &wide_b);
  return status ? status : FLOAT(gemm_tn)(t, k, n, wide_a, k, wide_b, n, c, ldc, accumulate, NULL);
}

int BF16(attention)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                    const void *qkv, void *out, void *lse, STREAM)
{
  int64_t rows = sequences * s, size = rows * heads * d;
  float *wide = widen_all(FIRST, rows * (heads + 2 * kv_heads) * d, qkv);
  float *attended = neapi_bf16_room(SECOND, size);
  if (!wide || !attended)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(attention)(sequences, s, heads, kv_heads, d, wide, attended, lse, NULL);
  return narrow_all(status, size, attended, out);
}

int BF16(attention_backward)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                             int64_t d, const void *qkv, const void *out, const void *lse,
                             const void *dout, void *dqkv, STREAM)
{
  int64_t rows = sequences * s, width = rows * (heads + 2 * kv_heads) * d;
  float *wide = widen_all(FIRST, width, qkv);
  float *wide_out = widen_all(SECOND, rows * heads * d, out);
  float *slope = widen_all(THIRD, rows * heads * d, dout);
  float *result = neapi_bf16_room(FOURTH, width);
  if (!wide || !wide_out || !slope || !result)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(attention_backward)(sequences, s, heads, kv_heads, d, wide, wide_out, lse,
                                         slope, result, NULL);
  return narrow_all(status, width, result, dqkv);
}

int BF16(rmsnorm)(int64_t t, int64_t h, const void *x, const void *gain, double eps, void *y,
                  void *rstd, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *wide_gain = widen_all(SECOND, h, gain);
  float *out = neapi_bf16_room(THIRD, t * h);
  if (!wide || !wide_gain || !out)
    return NEAPI_KERNEL_MEMORY;
  return narrow_all(FLOAT(rmsnorm)(t, h, wide, wide_gain, eps, out, rstd, NULL), t * h, out, y);
}

int BF16(rmsnorm_backward)(int64_t t, int64_t h, const void *x, const void *gain, const void *rstd,
                           const void *dy, void *dx, void *dgain, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *wide_gain = widen_all(SECOND, h, gain);
  float *slope = widen_all(THIRD, t * h, dy), *out = neapi_bf16_room(FOURTH, t * h);
  if (!wide || !wide_gain || !slope || !out)
    return NEAPI_KERNEL_MEMORY;
  int status = FLOAT(rmsnorm_backward)(t, h, wide, wide_gain, rstd, slope, out, dgain, NULL);
  return narrow_all(status, t * h, out, dx);
}

int BF16(rmsnorm_gain_terms)(int64_t t, int64_t h, const void *x, const void *rstd, const void *dy,
                             void *terms, STREAM)
{
  float *wide = widen_all(FIRST, t * h, x), *slope = widen_all(SECOND, t * h, dy);
  return wide && slope ? FLOAT(rmsnorm_gain_terms)(t, h, wide, rstd, slope, terms, NULL)
                       : NEAPI_KERNEL_MEMORY;
}

int BF16(rotary)(int64_t t, int64_t s, int64_t heads, int64_t d, int inverse, const void *table,
                 void *x, int64_t ldx, STREAM)
{
  int64_t width = heads * d;
  float *wide = widen_rows(FIRST, t, width, x, ldx);
  int status =
      wide ? FLOAT(rotary)(t, s, heads, d, inverse, table, wide, width, NULL) : NEAPI_KERNEL_MEMORY;
  if (!status)
    narrow_rows(t, width, wide, x, ldx);
  return status;
}

/* Reductions, conversions and exact sums of bf16. */
#include "bf16.h"

int BF16(square_sum)(int64_t n, const void *x, double *out, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(square_sum)(n, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(max_abs)(int64_t n, const void *x, double *out, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(max_abs)(n, wide, out, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(to_double)(int64_t n, const void *x, double *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    out[i] = (double)widen(((const bf16 *)x)[i]);
  return NEAPI_KERNEL_OK;
}

/* Rounded once: where the nearest float lies halfway between two bf16, and x does not, the float on
 * x's side of it decides. */
static bf16 narrow_double(double x)
{
  float nearest = (float)x;
  uint32_t bits;
  memcpy(&bits, &nearest, sizeof bits);
  if ((bits & 0xffff) == 0x8000 && x == x && (double)nearest != x) {
    bits += fabs(x) > fabs((double)nearest) ? 1u : -1u;
    memcpy(&nearest, &bits, sizeof bits);
  }
  return narrow(nearest);
}

int BF16(from_double)(int64_t n, const double *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow_double(x[i]);
  return NEAPI_KERNEL_OK;
}

int BF16(to_stat)(int64_t n, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((float *)out)[i] = widen(((const bf16 *)x)[i]);
  return NEAPI_KERNEL_OK;
}

int BF16(from_stat)(int64_t n, const void *x, void *out, STREAM)
{
  for (int64_t i = 0; i < n; i++)
    ((bf16 *)out)[i] = narrow(((const float *)x)[i]);
  return NEAPI_KERNEL_OK;
}

int BF16(exact_column_max)(int64_t t, int64_t h, const void *x, int64_t ldx, int accumulate,
                           double *max, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_column_max)(t, h, wide, h, accumulate, max, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_quantise)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *grid,
                         double *q, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_quantise)(t, h, wide, h, grid, q, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_column_sum)(int64_t t, int64_t h, const void *x, int64_t ldx, const double *grid,
                           double *sum, STREAM)
{
  float *wide = widen_rows(FIRST, t, h, x, ldx);
  return wide ? FLOAT(exact_column_sum)(t, h, wide, h, grid, sum, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_scatter_add)(int64_t n, int64_t h, const int32_t *index, const void *x,
                            const double *grid, double *sum, STREAM)
{
  float *wide = widen_all(FIRST, n * h, x);
  return wide ? FLOAT(exact_scatter_add)(n, h, index, wide, grid, sum, NULL) : NEAPI_KERNEL_MEMORY;
}

int BF16(exact_square_sum)(int64_t n, const void *x, double max, int64_t total, double *sum, STREAM)
{
  float *wide = widen_all(FIRST, n, x);
  return wide ? FLOAT(exact_square_sum)(n, wide, max, total, sum, NULL) : NEAPI_KERNEL_MEMORY;
}

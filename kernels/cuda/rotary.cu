/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding. A warp per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

__global__ void rotary_table_kernel(int64_t s, int64_t d, double base, float *table)
{
  int64_t half = d / 2, i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i >= s * half)
    return;
  double angle = (double)(i / half) * pow(base, -2.0 * (double)(i % half) / (double)d);
  float *row = table + i / half * d;
  row[i % half] = (float)cos(angle);
  row[half + i % half] = (float)sin(angle);
}

template <class T>
__global__ void rotary_kernel(int64_t t, int64_t s, int64_t heads, int64_t d, float sign,
                              const float *table, T *x, int64_t ldx)
{
  int64_t half = d / 2, pairs = heads * half;
  for (ROWS(row, t)) {
    const float *angle = table + row % s * d;
    for (int64_t i = threadIdx.x; i < pairs; i += WARP) {
      T *low = x + row * ldx + i / half * d + i % half, *high = low + half;
      float a = to_float(*low), b = to_float(*high);
      float cosine = angle[i % half], sine = sign * angle[half + i % half];
      *low = real_of<T>(a * cosine - b * sine);
      *high = real_of<T>(b * cosine + a * sine);
    }
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int rotary_table(int64_t s, int64_t d, double base, void *table, void *stream)
{
  if (s && d)
    LAUNCH(blocks_for(s * d / 2, BLOCK), BLOCK, 0, stream_of(stream), rotary_table_kernel)
  (s, d, base, (float *)table);
  return launched();
}

template <class T>
static int rotary(int64_t t, int64_t s, int64_t heads, int64_t d, int inverse, const void *table,
                  void *x, int64_t ldx, void *stream)
{
  if (t && heads)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(stream), rotary_kernel<T>)
  (t, s, heads, d, inverse ? -1.0f : 1.0f, (const float *)table, (T *)x, ldx);
  return launched();
}

LAUNCHER_OF_BOTH(rotary_table);
LAUNCHER(rotary);

/* SPDX-License-Identifier: Apache-2.0 */
/* Root mean square normalisation. A warp per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

template <class T>
__global__ void rmsnorm_kernel(int64_t t, int64_t h, const T *x, const T *gain, float eps, T *y,
                               float *rstd, bool whole)
{
  for (ROWS(row, t)) {
    float sum = 0;
    for (PACKS(T, i, h)) {
      pack<T> p;
      load(p, x + row * h, i, h, whole);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        sum += to_float(p.at[j]) * to_float(p.at[j]);
    }
    float scale = 1.0f / sqrtf(warp_sum(sum) / (float)h + eps);
    if (threadIdx.x == 0)
      rstd[row] = scale;
    for (PACKS(T, i, h)) {
      pack<T> p, g;
      load(p, x + row * h, i, h, whole);
      load(g, gain, i, h, whole);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        p.at[j] = real_of<T>(to_float(p.at[j]) * scale * to_float(g.at[j]));
      store(p, y + row * h, i, h, whole);
    }
  }
}

/* With u = x rstd: dx = rstd (gain dy - u mean(gain dy u)). */
template <class T>
__global__ void rmsnorm_backward_kernel(int64_t t, int64_t h, const T *x, const T *gain,
                                        const float *rstd, const T *dy, T *dx, bool whole)
{
  for (ROWS(row, t)) {
    float scale = rstd[row], along = 0;
    pack<T> p, g, d;
    for (PACKS(T, i, h)) {
      load(p, x + row * h, i, h, whole);
      load(g, gain, i, h, whole);
      load(d, dy + row * h, i, h, whole);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        along += to_float(d.at[j]) * to_float(g.at[j]) * to_float(p.at[j]);
    }
    along = warp_sum(along) * scale * scale / (float)h;
    for (PACKS(T, i, h)) {
      load(p, x + row * h, i, h, whole);
      load(g, gain, i, h, whole);
      load(d, dy + row * h, i, h, whole);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        p.at[j] =
            real_of<T>(scale * (to_float(g.at[j]) * to_float(d.at[j]) - along * to_float(p.at[j])));
      store(p, dx + row * h, i, h, whole);
    }
  }
}

enum { GAIN_ROWS = 128 }; /* tokens that a block adds up */

/* parts[b, h] = the sum of block b's tokens, in their order. */
template <class T>
__global__ void gain_gradient_parts(int64_t t, int64_t h, const T *x, const float *rstd,
                                    const T *dy, float *parts)
{
  int64_t column = blockIdx.y * (int64_t)blockDim.x + threadIdx.x;
  int64_t from = blockIdx.x * (int64_t)GAIN_ROWS, end = min(from + GAIN_ROWS, t);
  float sum = 0;
  for (int64_t row = from; column < h && row < end; row++)
    sum += to_float(dy[row * h + column]) * to_float(x[row * h + column]) * rstd[row];
  if (column < h)
    parts[blockIdx.x * h + column] = sum;
}

__global__ void gain_gradient_sum(int64_t blocks, int64_t h, const float *parts, float *sum)
{
  int64_t column = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (column >= h)
    return;
  float total = 0;
  for (int64_t b = 0; b < blocks; b++)
    total += parts[b * h + column];
  sum[column] += total;
}

template <class T>
__global__ void rmsnorm_gain_terms_kernel(int64_t t, int64_t h, const T *x, const float *rstd,
                                          const T *dy, float *terms)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < t * h;
       i += (int64_t)gridDim.x * blockDim.x)
    terms[i] = to_float(dy[i]) * to_float(x[i]) * rstd[i / h];
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T>
static int rmsnorm(int64_t t, int64_t h, const void *x, const void *gain, double eps, void *y,
                   void *rstd, void *s)
{
  if (t)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), rmsnorm_kernel<T>)
  (t, h, (const T *)x, (const T *)gain, (float)eps, (T *)y, (float *)rstd,
   aligned<T>(h, x, gain, y));
  return launched();
}

template <class T>
static int gain_gradient(int64_t t, int64_t h, const void *x, const void *rstd, const void *dy,
                         void *dgain, void *s)
{
  int64_t blocks = (t + GAIN_ROWS - 1) / GAIN_ROWS;
  float *parts = (float *)scratch_open(blocks * h * (int64_t)sizeof *parts, s);
  if (!parts)
    return NEAPI_KERNEL_MEMORY;
  dim3 grid((unsigned)blocks, blocks_for(h, BLOCK));
  LAUNCH(grid, BLOCK, 0, stream_of(s), gain_gradient_parts<T>)
  (t, h, (const T *)x, (const float *)rstd, (const T *)dy, parts);
  LAUNCH(blocks_for(h, BLOCK), BLOCK, 0, stream_of(s), gain_gradient_sum)
  (blocks, h, parts, (float *)dgain);
  scratch_close(parts, s);
  return launched();
}

template <class T>
static int rmsnorm_backward(int64_t t, int64_t h, const void *x, const void *gain, const void *rstd,
                            const void *dy, void *dx, void *dgain, void *s)
{
  if (!t || !h)
    return NEAPI_KERNEL_OK;
  LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), rmsnorm_backward_kernel<T>)
  (t, h, (const T *)x, (const T *)gain, (const float *)rstd, (const T *)dy, (T *)dx,
   aligned<T>(h, x, gain, dy, dx));
  int status = launched();
  return status || !dgain ? status : gain_gradient<T>(t, h, x, rstd, dy, dgain, s);
}

template <class T>
static int rmsnorm_gain_terms(int64_t t, int64_t h, const void *x, const void *rstd, const void *dy,
                              void *terms, void *s)
{
  if (t && h)
    LAUNCH(blocks_for(t * h, BLOCK), BLOCK, 0, stream_of(s), rmsnorm_gain_terms_kernel<T>)
  (t, h, (const T *)x, (const float *)rstd, (const T *)dy, (float *)terms);
  return launched();
}

LAUNCHER(rmsnorm);
LAUNCHER(rmsnorm_backward);
LAUNCHER(rmsnorm_gain_terms);

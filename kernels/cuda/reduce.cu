/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima of whole arrays: a fixed number of blocks, then one that adds up. */
#include "cuda.cuh"

enum { SUM_BLOCKS = 528 };

template <class T> __global__ void square_sum_parts(int64_t n, const T *x, double *parts)
{
  double sum = 0;
  for (int64_t i = blockIdx.x * (int64_t)BLOCK + threadIdx.x; i < n;
       i += (int64_t)SUM_BLOCKS * BLOCK)
    sum += (double)to_float(x[i]) * (double)to_float(x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    parts[blockIdx.x] = sum;
}

__global__ void square_sum_kernel(const double *parts, double *out)
{
  double sum = 0;
  for (int i = threadIdx.x; i < SUM_BLOCKS; i += BLOCK)
    sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    *out = sum;
}

/* |x|, infinity if x is not finite. */
__device__ static float magnitude(float x)
{
  return fabsf(x) <= FLT_MAX ? fabsf(x) : INFINITY;
}

template <class T> __global__ void max_abs_parts(int64_t n, const T *x, float *parts)
{
  float max = 0;
  for (int64_t i = blockIdx.x * (int64_t)BLOCK + threadIdx.x; i < n;
       i += (int64_t)SUM_BLOCKS * BLOCK)
    max = fmaxf(max, magnitude(to_float(x[i])));
  max = block_max(max);
  if (threadIdx.x == 0)
    parts[blockIdx.x] = max;
}

__global__ void max_abs_kernel(const float *parts, double *out)
{
  float max = 0;
  for (int i = threadIdx.x; i < SUM_BLOCKS; i += BLOCK)
    max = fmaxf(max, parts[i]);
  max = block_max(max);
  if (threadIdx.x == 0)
    *out = (double)max;
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T> static int square_sum(int64_t n, const void *x, double *out, void *s)
{
  double *parts = (double *)scratch_open(SUM_BLOCKS * (int64_t)sizeof *parts, s);
  if (!parts)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH(SUM_BLOCKS, BLOCK, 0, stream_of(s), square_sum_parts<T>)(n, (const T *)x, parts);
  LAUNCH(1, BLOCK, 0, stream_of(s), square_sum_kernel)(parts, out);
  scratch_close(parts, s);
  return launched();
}

template <class T> static int max_abs(int64_t n, const void *x, double *out, void *s)
{
  float *parts = (float *)scratch_open(SUM_BLOCKS * (int64_t)sizeof *parts, s);
  if (!parts)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH(SUM_BLOCKS, BLOCK, 0, stream_of(s), max_abs_parts<T>)(n, (const T *)x, parts);
  LAUNCH(1, BLOCK, 0, stream_of(s), max_abs_kernel)(parts, out);
  scratch_close(parts, s);
  return launched();
}

LAUNCHER(square_sum);
LAUNCHER(max_abs);

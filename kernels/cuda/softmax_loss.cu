/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-entropy: softmax over a row, a block per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

template <class T>
__global__ void cross_entropy_kernel(int64_t v, float factor, const float *logits,
                                     const int32_t *target, float *loss, T *dlogits)
{
  int64_t row = blockIdx.x;
  const float *x = logits + row * v;
  int32_t id = target[row];
  float max = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < v; i += blockDim.x)
    max = fmaxf(max, x[i]);
  max = block_max(max);
  for (int64_t i = threadIdx.x; i < v; i += blockDim.x)
    sum += expf(x[i] - max);
  sum = block_sum(sum);
  float of_target = id < 0 ? 0.0f : x[id];
  __syncthreads(); /* dlogits may be logits */
  if (loss && threadIdx.x == 0)
    loss[row] = id < 0 ? 0.0f : logf(sum) + (max - of_target);
  for (int64_t i = threadIdx.x; dlogits && i < v; i += blockDim.x) {
    float grad = factor * (expf(x[i] - max) / sum - (i == id ? 1.0f : 0.0f));
    dlogits[row * v + i] = real_of<T>(id < 0 ? 0.0f : grad);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T>
static int cross_entropy(int64_t t, int64_t v, double factor, const void *logits,
                         const int32_t *target, void *loss, void *dlogits, void *s)
{
  if (t)
    LAUNCH((unsigned)t, BLOCK, 0, stream_of(s), cross_entropy_kernel<T>)
  (v, (float)factor, (const float *)logits, target, (float *)loss, (T *)dlogits);
  return launched();
}

LAUNCHER(cross_entropy);

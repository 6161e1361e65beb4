/* SPDX-License-Identifier: Apache-2.0 */
/* Router: scores of the experts, and those with the largest. A warp per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

/* What experts are chosen by. */
__device__ static float key_of(const float *scores, const double *bias, int32_t i)
{
  return bias ? scores[i] + (float)bias[i] : scores[i];
}

/* The expert after (last, last_id) in the order of choice; -1 if there is none. */
__device__ static int32_t next_choice(int64_t e, const double *bias, const float *scores,
                                      float last, int32_t last_id)
{
  float best = -INFINITY;
  int32_t id = INT32_MAX;
  for (int32_t i = (int32_t)threadIdx.x; i < e; i += WARP) {
    float key = key_of(scores, bias, i);
    bool open = key < last || (key == last && i > last_id);
    if (open && key > best) {
      best = key;
      id = i;
    }
  }
#pragma unroll
  for (int step = WARP / 2; step; step /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, best, step);
    int32_t other_id = __shfl_xor_sync(0xffffffffu, id, step);
    if (other > best || (other == best && other_id < id)) {
      best = other;
      id = other_id;
    }
  }
  return id == INT32_MAX ? -1 : id;
}

/* Of one token, like sigmoid_scores: whether its logits are fit for use. */
__device__ static bool softmax_scores(int64_t e, const float *x, float *scores)
{
  float max = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < e; i += WARP)
    max = fmaxf(max, x[i]);
  max = warp_max(max);
  for (int64_t i = threadIdx.x; i < e; i += WARP)
    sum += scores[i] = expf(x[i] - max);
  sum = warp_sum(sum);
  bool fit = sum >= 1.0f;
  for (int64_t i = threadIdx.x; i < e; i += WARP)
    scores[i] = fit ? scores[i] / sum : NAN;
  return fit;
}

__device__ static bool sigmoid_scores(int64_t e, const float *x, float *scores)
{
  float unfit = 0;
  for (int64_t i = threadIdx.x; i < e; i += WARP) {
    scores[i] = 1.0f / (1.0f + expf(-x[i]));
    unfit += isfinite(x[i]) ? 0.0f : 1.0f;
  }
  bool fit = warp_sum(unfit) == 0.0f;
  for (int64_t i = threadIdx.x; !fit && i < e; i += WARP)
    scores[i] = NAN;
  return fit;
}

__global__ void router_kernel(int64_t t, int64_t e, int64_t k, bool sigmoid, bool renormalise,
                              const double *bias, const float *logits, float *scores, int32_t *ids,
                              float *weights, unsigned long long *bad)
{
  for (ROWS(row, t)) {
    const float *x = logits + row * e;
    float *s = scores + row * e;
    bool fit = sigmoid ? sigmoid_scores(e, x, s) : softmax_scores(e, x, s);
    if (!fit && threadIdx.x == 0)
      atomicMin(bad, (unsigned long long)row);
    __syncwarp();
    float last = INFINITY, selected = 0;
    int32_t last_id = -1;
    for (int32_t c = 0; c < k; c++) {
      int32_t id = next_choice(e, bias, s, last, last_id);
      id = id < 0 ? c : id;
      last = key_of(s, bias, id);
      last_id = id;
      selected += s[id];
      if (threadIdx.x == 0) {
        ids[row * k + c] = id;
        weights[row * k + c] = s[id];
      }
    }
    __syncwarp();
    for (int64_t c = threadIdx.x; renormalise && selected != 0.0f && c < k; c += WARP)
      weights[row * k + c] /= selected;
  }
}

__global__ void router_shares_kernel(int64_t t, int64_t e, const float *scores, float *shares)
{
  for (ROWS(row, t)) {
    const float *s = scores + row * e;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < e; i += WARP)
      sum += s[i];
    sum = warp_sum(sum);
    for (int64_t i = threadIdx.x; i < e; i += WARP)
      shares[row * e + i] = sum > 0.0f ? s[i] / sum : 0.0f;
  }
}

__global__ void balanced_choices_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                                        int64_t first, const float *scores, int32_t *ids,
                                        float *weights)
{
  for (int64_t row = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; row < t;
       row += (int64_t)gridDim.x * blockDim.x) {
    float selected = 0;
    for (int64_t c = 0; c < k; c++) {
      int64_t id = (first + row * k + c) % e;
      ids[row * k + c] = (int32_t)id;
      selected += weights[row * k + c] = scores[row * e + id];
    }
    for (int64_t c = 0; renormalise && selected > 0 && c < k; c++)
      weights[row * k + c] /= selected;
  }
}

/* s ds of a selected expert: of w = s / a, a the sum of the selected s, s ds = w dw - w (sum of w
 * dw); else s ds = w dw. dlog[position]: w dw. */
template <class T>
__global__ void router_backward_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                                       const float *scores, const int32_t *ids,
                                       const float *weights, const int32_t *position,
                                       const float *dlog, const float *dshares, T *dlogits)
{
  for (ROWS(row, t)) {
    const float *s = scores + row * e, *w = weights + row * k;
    const int32_t *id = ids + row * k, *at = position + row * k;
    float all = 0, sum = 0;
    for (int64_t c = 0; renormalise && c < k; c++)
      all += dlog[at[c]];
    for (int64_t i = threadIdx.x; dshares && i < e; i += WARP)
      sum += s[i] * dshares[row * e + i];
    sum = warp_sum(sum);
    for (int64_t c = 0; c < k; c++)
      sum += dlog[at[c]] - w[c] * all;
    for (int64_t i = threadIdx.x; i < e; i += WARP) {
      float s_ds = dshares ? s[i] * dshares[row * e + i] : 0.0f;
      for (int64_t c = 0; c < k; c++)
        s_ds += id[c] == i ? dlog[at[c]] - w[c] * all : 0.0f;
      dlogits[row * e + i] = real_of<T>(s_ds - s[i] * sum);
    }
  }
}

/* Of scores that are sigmoids: with h = s / sum of s, what the shares' gradient adds to s ds is
 * h (dh - sum of h dh). */
template <class T>
__global__ void sigmoid_backward_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                                        const float *scores, const int32_t *ids,
                                        const float *weights, const int32_t *position,
                                        const float *dlog, const float *dshares, T *dlogits)
{
  for (ROWS(row, t)) {
    const float *s = scores + row * e, *w = weights + row * k;
    const int32_t *id = ids + row * k, *at = position + row * k;
    float all = 0, sum = 0, along = 0;
    for (int64_t c = 0; renormalise && c < k; c++)
      all += dlog[at[c]];
    for (int64_t i = threadIdx.x; dshares && i < e; i += WARP) {
      sum += s[i];
      along += s[i] * dshares[row * e + i];
    }
    sum = warp_sum(sum);
    along = warp_sum(along);
    for (int64_t i = threadIdx.x; i < e; i += WARP) {
      float s_ds = sum > 0.0f ? s[i] / sum * (dshares[row * e + i] - along / sum) : 0.0f;
      for (int64_t c = 0; c < k; c++)
        s_ds += id[c] == i ? dlog[at[c]] - w[c] * all : 0.0f;
      dlogits[row * e + i] = real_of<T>(s_ds * (1.0f - s[i]));
    }
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int router(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise, const double *bias,
                  const void *logits, void *scores, int32_t *ids, void *weights, int64_t *bad,
                  void *s)
{
  unsigned long long *first = (unsigned long long *)scratch_open(sizeof *first, s);
  if (!first)
    return NEAPI_KERNEL_MEMORY;
  cudaMemsetAsync(first, 0xff, sizeof *first, stream_of(s)); /* -1: none */
  if (t)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), router_kernel)
  (t, e, k, sigmoid, renormalise, bias, (const float *)logits, (float *)scores, ids,
   (float *)weights, first);
  cudaMemcpyAsync(bad, first, sizeof *bad, cudaMemcpyDefault, stream_of(s));
  scratch_close(first, s);
  return launched();
}

static int router_shares(int64_t t, int64_t e, const void *scores, void *shares, void *s)
{
  if (t)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), router_shares_kernel)
  (t, e, (const float *)scores, (float *)shares);
  return launched();
}

static int balanced_choices(int64_t t, int64_t e, int64_t k, int renormalise, int64_t first,
                            const void *scores, int32_t *ids, void *weights, void *s)
{
  if (t)
    LAUNCH(blocks_for(t, BLOCK), BLOCK, 0, stream_of(s), balanced_choices_kernel)
  (t, e, k, renormalise, first, (const float *)scores, ids, (float *)weights);
  return launched();
}

template <class T>
static int router_backward(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise,
                           const void *scores, const int32_t *ids, const void *weights,
                           const int32_t *position, const void *dlog, const void *dshares,
                           void *dlogits, void *s)
{
  if (t && e && sigmoid)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), sigmoid_backward_kernel<T>)
  (t, e, k, renormalise, (const float *)scores, ids, (const float *)weights, position,
   (const float *)dlog, (const float *)dshares, (T *)dlogits);
  else if (t && e) LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s),
                          router_backward_kernel<T>)(
      t, e, k, renormalise, (const float *)scores, ids, (const float *)weights, position,
      (const float *)dlog, (const float *)dshares, (T *)dlogits);
  return launched();
}

LAUNCHER_OF_BOTH(router);
LAUNCHER_OF_BOTH(router_shares);
LAUNCHER_OF_BOTH(balanced_choices);
LAUNCHER(router_backward);

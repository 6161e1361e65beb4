/* Router: softmax and the most probable experts. A warp per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

/* The most probable expert after (last, last_id) in the order of choice; -1 if there is none. */
__device__ static int32_t next_choice(int64_t e, const float *probs, float last, int32_t last_id)
{
  float best = -INFINITY;
  int32_t id = INT32_MAX;
  for (int32_t i = (int32_t)threadIdx.x; i < e; i += WARP) {
    float p = probs[i];
    bool open = p < last || (p == last && i > last_id);
    if (open && p > best) {
      best = p;
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

__global__ void router_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                              const float *logits, float *probs, int32_t *ids, float *weights,
                              unsigned long long *bad)
{
  for (ROWS(row, t)) {
    const float *x = logits + row * e;
    float *p = probs + row * e, max = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < e; i += WARP)
      max = fmaxf(max, x[i]);
    max = warp_max(max);
    for (int64_t i = threadIdx.x; i < e; i += WARP)
      sum += p[i] = expf(x[i] - max);
    sum = warp_sum(sum);
    bool fit = sum >= 1.0f;
    for (int64_t i = threadIdx.x; i < e; i += WARP)
      p[i] = fit ? p[i] / sum : NAN;
    if (!fit && threadIdx.x == 0)
      atomicMin(bad, (unsigned long long)row);
    __syncwarp();
    float last = INFINITY, selected = 0;
    int32_t last_id = -1;
    for (int32_t c = 0; c < k; c++) {
      int32_t id = next_choice(e, p, last, last_id);
      id = id < 0 ? c : id;
      last = p[id];
      last_id = id;
      selected += last;
      if (threadIdx.x == 0) {
        ids[row * k + c] = id;
        weights[row * k + c] = last;
      }
    }
    __syncwarp();
    for (int64_t c = threadIdx.x; renormalise && c < k; c += WARP)
      weights[row * k + c] /= selected;
  }
}

__global__ void balanced_choices_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                                        int64_t first, const float *probs, int32_t *ids,
                                        float *weights)
{
  for (int64_t row = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; row < t;
       row += (int64_t)gridDim.x * blockDim.x) {
    float selected = 0;
    for (int64_t c = 0; c < k; c++) {
      int64_t id = (first + row * k + c) % e;
      ids[row * k + c] = (int32_t)id;
      selected += weights[row * k + c] = probs[row * e + id];
    }
    for (int64_t c = 0; renormalise && selected > 0 && c < k; c++)
      weights[row * k + c] /= selected;
  }
}

/* p dp of a selected expert: of w = p / s, s the sum of the selected p, p dp = w dw - w (sum of w
 * dw); else p dp = w dw. dlog[position]: w dw. */
template <class T>
__global__ void router_backward_kernel(int64_t t, int64_t e, int64_t k, bool renormalise,
                                       const float *probs, const int32_t *ids, const float *weights,
                                       const int32_t *position, const float *dlog,
                                       const float *dprobs, T *dlogits)
{
  for (ROWS(row, t)) {
    const float *p = probs + row * e, *w = weights + row * k;
    const int32_t *id = ids + row * k, *at = position + row * k;
    float all = 0, sum = 0;
    for (int64_t c = 0; renormalise && c < k; c++)
      all += dlog[at[c]];
    for (int64_t i = threadIdx.x; dprobs && i < e; i += WARP)
      sum += p[i] * dprobs[row * e + i];
    sum = warp_sum(sum);
    for (int64_t c = 0; c < k; c++)
      sum += dlog[at[c]] - w[c] * all;
    for (int64_t i = threadIdx.x; i < e; i += WARP) {
      float p_dp = dprobs ? p[i] * dprobs[row * e + i] : 0.0f;
      for (int64_t c = 0; c < k; c++)
        p_dp += id[c] == i ? dlog[at[c]] - w[c] * all : 0.0f;
      dlogits[row * e + i] = real_of<T>(p_dp - p[i] * sum);
    }
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int router(int64_t t, int64_t e, int64_t k, int renormalise, const void *logits, void *probs,
                  int32_t *ids, void *weights, int64_t *bad, void *s)
{
  unsigned long long *first = (unsigned long long *)scratch_open(sizeof *first, s);
  if (!first)
    return NEAPI_KERNEL_MEMORY;
  cudaMemsetAsync(first, 0xff, sizeof *first, stream_of(s)); /* -1: none */
  if (t)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), router_kernel)
  (t, e, k, renormalise, (const float *)logits, (float *)probs, ids, (float *)weights, first);
  cudaMemcpyAsync(bad, first, sizeof *bad, cudaMemcpyDefault, stream_of(s));
  scratch_close(first, s);
  return launched();
}

static int balanced_choices(int64_t t, int64_t e, int64_t k, int renormalise, int64_t first,
                            const void *probs, int32_t *ids, void *weights, void *s)
{
  if (t)
    LAUNCH(blocks_for(t, BLOCK), BLOCK, 0, stream_of(s), balanced_choices_kernel)
  (t, e, k, renormalise, first, (const float *)probs, ids, (float *)weights);
  return launched();
}

template <class T>
static int router_backward(int64_t t, int64_t e, int64_t k, int renormalise, const void *probs,
                           const int32_t *ids, const void *weights, const int32_t *position,
                           const void *dlog, const void *dprobs, void *dlogits, void *s)
{
  if (t && e)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), router_backward_kernel<T>)
  (t, e, k, renormalise, (const float *)probs, ids, (const float *)weights, position,
   (const float *)dlog, (const float *)dprobs, (T *)dlogits);
  return launched();
}

LAUNCHER_OF_BOTH(router);
LAUNCHER_OF_BOTH(balanced_choices);
LAUNCHER(router_backward);

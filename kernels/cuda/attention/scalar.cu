/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by plain kernels, forward (see scalar.cuh). */
#include "scalar.cuh"

/* Sum or maximum over the LANES threads that share a row. */
__device__ static float lanes_sum(float x)
{
#pragma unroll
  for (int step = LANES / 2; step; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ static float lanes_max(float x)
{
#pragma unroll
  for (int step = LANES / 2; step; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(sizes z, const T *qkv, T *out, float *lse)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *q = memory, *k = q + TILE * width, *v = k + TILE * width, *p = v + TILE * width;
  int64_t first = blockIdx.x * (int64_t)TILE, head = blockIdx.y, start = blockIdx.z * z.s;
  const T *rows = qkv + start * z.ld;
  const T *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * z.d;
  float sum[EACH][COLUMNS] = {{0}}, total[EACH] = {0}, max[EACH];
  for (int i = 0; i < EACH; i++)
    max[i] = -INFINITY;
  load_rows(q, width, rows + head * z.d, z.ld, first, z.s, z.d);
  for (int64_t at = 0; at <= first; at += TILE) {
    __syncthreads();
    load_rows(k, width, keys, z.ld, at, z.s, z.d);
    load_rows(v, width, keys + z.kv_heads * z.d, z.ld, at, z.s, z.d);
    __syncthreads();
    square score = {{0}};
    product(score, q, k, width, z.d, ty, tx);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int64_t query = first + ty + i * LANES;
      float largest = max[i], part = 0;
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        bool seen = at + tx + j * LANES <= query;
        score[i][j] = seen ? score[i][j] * z.scale : -INFINITY;
        largest = fmaxf(largest, score[i][j]);
      }
      largest = lanes_max(largest);
      float fade = expf(max[i] - largest);
      max[i] = largest;
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        float weight = expf(score[i][j] - largest);
        p[(ty + i * LANES) * (TILE + 1) + tx + j * LANES] = weight;
        part += weight;
      }
      total[i] = total[i] * fade + lanes_sum(part);
#pragma unroll
      for (int j = 0; j < COLUMNS; j++)
        sum[i][j] *= fade;
    }
    __syncthreads();
    accumulate<COLUMNS, false>(sum, p, v, width, z.d, ty, tx);
  }
  for (int i = 0; i < EACH; i++) {
    int64_t query = first + ty + i * LANES;
    if (query >= z.s)
      continue;
    T *to = out + (start + query) * z.ld_out + head * z.d;
    for (int j = 0; j < COLUMNS; j++)
      if (tx + j * LANES < z.d)
        to[tx + j * LANES] = real_of<T>(sum[i][j] / total[i]);
    if (tx == 0)
      lse[(start + query) * z.heads + head] = max[i] + logf(total[i]);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T, int COLUMNS>
static int run_forward(int64_t sequences, const sizes &z, const T *qkv, T *out, float *lse,
                       cudaStream_t s)
{
  int bytes = memory_of(z.d, 3, 1);
  dim3 grid((unsigned)((z.s + TILE - 1) / TILE), (unsigned)z.heads, (unsigned)sequences);
  cudaFuncSetAttribute(attention_kernel<T, COLUMNS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       bytes);
  LAUNCH(grid, THREADS, bytes, s, attention_kernel<T, COLUMNS>)(z, qkv, out, lse);
  return launched();
}

/* The launcher for rows of d. bf16 comes here with rows that are too wide for tensor cores, or on a
 * GPU that has none for it: one width does for all of them. */
template <class T> static decltype(&run_forward<T, MOST_D / LANES>) run_forward_of(int64_t d)
{
  if constexpr (sizeof(T) == sizeof(float)) {
    if (d <= 64)
      return run_forward<T, 64 / LANES>;
    if (d <= 128)
      return run_forward<T, 128 / LANES>;
  }
  return run_forward<T, MOST_D / LANES>;
}

template <class T>
int scalar_attention<T>::forward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                 int64_t d, const void *qkv, void *out, void *lse, void *stream)
{
  sizes z = sizes_of(s, heads, kv_heads, d);
  if (d > MOST_D)
    return NEAPI_KERNEL_MEMORY;
  return run_forward_of<T>(d)(sequences, z, (const T *)qkv, (T *)out, (float *)lse,
                              stream_of(stream));
}

template neapi_kernel_attention scalar_attention<float>::forward;
template neapi_kernel_attention scalar_attention<bf16>::forward;

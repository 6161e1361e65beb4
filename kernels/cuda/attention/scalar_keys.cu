/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by plain kernels, backward: the gradients of keys and values. */
#include "scalar.cuh"

/* Of a tile of keys: the gradients from all queries of all heads that share them. */
template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_key_kernel(sizes z, const T *qkv, const float *lse, const float *along, const T *dout,
                         T *dqkv)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *k = memory, *v = k + TILE * width, *x = v + TILE * width;
  float *p = x + TILE * width, *ds = p + TILE * (TILE + 1);
  int64_t at = blockIdx.x * (int64_t)TILE, kv_head = blockIdx.y, start = blockIdx.z * z.s;
  int64_t group = z.heads / z.kv_heads, offset = (z.heads + kv_head) * z.d;
  const T *rows = qkv + start * z.ld;
  float dk[EACH][COLUMNS] = {{0}}, dv[EACH][COLUMNS] = {{0}};
  load_rows(k, width, rows + offset, z.ld, at, z.s, z.d);
  load_rows(v, width, rows + offset + z.kv_heads * z.d, z.ld, at, z.s, z.d);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int64_t first = at; first < z.s; first += TILE) {
      const T *grad = dout + start * z.ld_out + head * z.d;
      int64_t of_row = start * z.heads + head;
      square score = {{0}}, dp = {{0}};
      __syncthreads();
      load_rows(x, width, rows + head * z.d, z.ld, first, z.s, z.d);
      __syncthreads();
      product(score, x, k, width, z.d, ty, tx);
      __syncthreads();
      load_rows(x, width, grad, z.ld_out, first, z.s, z.d);
      __syncthreads();
      product(dp, x, v, width, z.d, ty, tx);
      score_gradients(z, score, dp, first, at, lse + of_row, along + of_row, p, ds, ty, tx);
      __syncthreads();
      accumulate<COLUMNS, true>(dv, p, x, width, z.d, ty, tx);
      __syncthreads();
      load_rows(x, width, rows + head * z.d, z.ld, first, z.s, z.d);
      __syncthreads();
      accumulate<COLUMNS, true>(dk, ds, x, width, z.d, ty, tx);
    }
  for (int i = 0; i < EACH; i++)
    for (int j = 0; j < COLUMNS; j++) {
      int64_t key = at + ty + i * LANES, c = tx + j * LANES;
      if (key >= z.s || c >= z.d)
        continue;
      T *to = dqkv + (start + key) * z.ld + offset + c;
      to[0] = real_of<T>(dk[i][j]);
      to[z.kv_heads * z.d] = real_of<T>(dv[i][j]);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T, int COLUMNS>
static int run_keys(int64_t sequences, const sizes &z, const T *qkv, const float *lse,
                    const float *along, const T *dout, T *dqkv, cudaStream_t s)
{
  int bytes = memory_of(z.d, 3, 2);
  unsigned tiles = (unsigned)((z.s + TILE - 1) / TILE);
  cudaFuncSetAttribute(attention_key_kernel<T, COLUMNS>,
                       cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  LAUNCH(dim3(tiles, (unsigned)z.kv_heads, (unsigned)sequences), THREADS, bytes, s,
         attention_key_kernel<T, COLUMNS>)
  (z, qkv, lse, along, dout, dqkv);
  return launched();
}

template <class T>
int neapi_scalar_key_gradients(int64_t sequences, const sizes &z, const T *qkv, const float *lse,
                               const float *along, const T *dout, T *dqkv, cudaStream_t s)
{
  if constexpr (sizeof(T) == sizeof(float)) {
    if (z.d <= 64)
      return run_keys<T, 64 / LANES>(sequences, z, qkv, lse, along, dout, dqkv, s);
    if (z.d <= 128)
      return run_keys<T, 128 / LANES>(sequences, z, qkv, lse, along, dout, dqkv, s);
  }
  return run_keys<T, MOST_D / LANES>(sequences, z, qkv, lse, along, dout, dqkv, s);
}

template int neapi_scalar_key_gradients<float>(int64_t, const sizes &, const float *, const float *,
                                               const float *, const float *, float *, cudaStream_t);
template int neapi_scalar_key_gradients<bf16>(int64_t, const sizes &, const bf16 *, const float *,
                                              const float *, const bf16 *, bf16 *, cudaStream_t);

/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by plain kernels, backward (see scalar.cuh): dot products and the gradients of queries;
 * those of keys and values are in scalar_keys.cu, which takes as long to compile. */
#include "scalar.cuh"

/* along[t, head] = the dot product of out and dout. A warp each. */
template <class T>
__global__ void attention_dots_kernel(int64_t rows, int64_t d, const T *out, const T *dout,
                                      float *along)
{
  for (ROWS(row, rows)) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += WARP)
      sum += to_float(out[row * d + i]) * to_float(dout[row * d + i]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
      along[row] = sum;
  }
}

template <class T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
    attention_query_kernel(sizes z, const T *qkv, const float *lse, const float *along,
                           const T *dout, T *dqkv)
{
  extern __shared__ float memory[];
  int width = (int)z.d + 1, ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float *q = memory, *dy = q + TILE * width, *x = dy + TILE * width, *ds = x + TILE * width;
  int64_t first = blockIdx.x * (int64_t)TILE, head = blockIdx.y, start = blockIdx.z * z.s;
  const T *rows = qkv + start * z.ld;
  const T *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * z.d;
  int64_t of_row = start * z.heads + head;
  float sum[EACH][COLUMNS] = {{0}};
  load_rows(q, width, rows + head * z.d, z.ld, first, z.s, z.d);
  load_rows(dy, width, dout + start * z.ld_out + head * z.d, z.ld_out, first, z.s, z.d);
  for (int64_t at = 0; at <= first; at += TILE) {
    square score = {{0}}, dp = {{0}};
    __syncthreads();
    load_rows(x, width, keys + z.kv_heads * z.d, z.ld, at, z.s, z.d);
    __syncthreads();
    product(dp, dy, x, width, z.d, ty, tx);
    __syncthreads();
    load_rows(x, width, keys, z.ld, at, z.s, z.d);
    __syncthreads();
    product(score, q, x, width, z.d, ty, tx);
    score_gradients(z, score, dp, first, at, lse + of_row, along + of_row, NULL, ds, ty, tx);
    __syncthreads();
    accumulate<COLUMNS, false>(sum, ds, x, width, z.d, ty, tx);
  }
  for (int i = 0; i < EACH; i++)
    for (int j = 0; j < COLUMNS; j++) {
      int64_t query = first + ty + i * LANES, c = tx + j * LANES;
      if (query < z.s && c < z.d)
        dqkv[(start + query) * z.ld + head * z.d + c] = real_of<T>(sum[i][j]);
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T, int COLUMNS>
static int run_backward(int64_t sequences, const sizes &z, const T *qkv, const float *lse,
                        const float *along, const T *dout, T *dqkv, cudaStream_t s)
{
  int bytes = memory_of(z.d, 3, 1);
  unsigned tiles = (unsigned)((z.s + TILE - 1) / TILE);
  cudaFuncSetAttribute(attention_query_kernel<T, COLUMNS>,
                       cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  LAUNCH(dim3(tiles, (unsigned)z.heads, (unsigned)sequences), THREADS, bytes, s,
         attention_query_kernel<T, COLUMNS>)
  (z, qkv, lse, along, dout, dqkv);
  int status = launched();
  return status ? status : neapi_scalar_key_gradients(sequences, z, qkv, lse, along, dout, dqkv, s);
}

/* The launcher for rows of d. bf16 comes here with rows that are too wide for tensor cores, or on a
 * GPU that has none for it: one width does for all of them. */
template <class T> static decltype(&run_backward<T, MOST_D / LANES>) run_backward_of(int64_t d)
{
  if constexpr (sizeof(T) == sizeof(float)) {
    if (d <= 64)
      return run_backward<T, 64 / LANES>;
    if (d <= 128)
      return run_backward<T, 128 / LANES>;
  }
  return run_backward<T, MOST_D / LANES>;
}

template <class T>
int scalar_attention<T>::backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                  int64_t d, const void *qkv, const void *out, const void *lse,
                                  const void *dout, void *dqkv, void *stream)
{
  sizes z = sizes_of(s, heads, kv_heads, d);
  int64_t rows = sequences * s * heads;
  float *along = d > MOST_D ? NULL : (float *)scratch_open(rows * (int64_t)sizeof *along, stream);
  if (!along)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH(blocks_for(rows, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(stream),
         attention_dots_kernel<T>)
  (rows, d, (const T *)out, (const T *)dout, along);
  int status = run_backward_of<T>(d)(sequences, z, (const T *)qkv, (const float *)lse, along,
                                     (const T *)dout, (T *)dqkv, stream_of(stream));
  scratch_close(along, stream);
  return status;
}

template neapi_kernel_attention_backward scalar_attention<float>::backward;
template neapi_kernel_attention_backward scalar_attention<bf16>::backward;

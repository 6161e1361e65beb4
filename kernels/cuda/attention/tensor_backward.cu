/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by tensor cores, backward (see tensor.cuh): queries' gradients by blocks of
 * queries here, keys' and values' by blocks of keys in tensor_keys.cu; both recompute the
 * probabilities. */
#include "tensor_backward.cuh"

/* of[t, head]; a warp for each. */
static __global__ void tensor_attention_dots_kernel(int64_t rows, int64_t d, const bf16 *out,
                                                    const bf16 *dout, const float *lse,
                                                    statistic *of)
{
  for (ROWS(row, rows)) {
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += WARP)
      sum += to_float(out[row * d + i]) * to_float(dout[row * d + i]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
      of[row] = {lse[row] * LOG2_E, sum};
  }
}

/* dq: a block owns queries, and keys and values stream. */
template <int D, int N, int M, int WARPS, int RESIDENT>
__global__ void __launch_bounds__(WARPS *WARP, RESIDENT)
    tensor_attention_query_kernel(dimensions z, const bf16 *qkv, const bf16 *dout,
                                  const statistic *of, bf16 *dqkv)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * M * STRIP, THREADS = WARPS * WARP };
  bf16 *q = (bf16 *)shared, *dy = q + OWN * (D + GAP), *stages = dy + OWN * (D + GAP);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, strip = warp * M * STRIP * (D + GAP);
  int head = blockIdx.x % z.heads, first = (gridDim.y - 1 - blockIdx.y) * OWN;
  int mine = first + warp * M * STRIP, last = min(first + OWN, z.s);
  int64_t start = blockIdx.x / z.heads * (int64_t)z.s;
  const bf16 *rows = qkv + start * z.ld;
  const bf16 *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * (int64_t)z.d;
  const bf16 *values = keys + z.kv_heads * z.d;
  float sum[M][D / 8][4];
  statistic own[M][2];
  clear(sum);
  fetch<D, OWN, THREADS>(q, rows + head * z.d, z.ld, first, z.s, z);
  fetch<D, OWN, THREADS>(dy, dout + start * z.ld_out + head * z.d, z.ld_out, first, z.s, z);
  fetch<D, N, THREADS>(stages, keys, z.ld, 0, z.s, z);
  fetch<D, N, THREADS>(stages + TILE, values, z.ld, 0, z.s, z);
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    int row = mine + lane / 4 + i * 8;
    own[i / 2][i % 2] = {0, 0};
    if (row < z.s)
      own[i / 2][i % 2] = of[(start + row) * z.heads + head];
  }
  for (int at = 0; at < last; at += N) {
    const bf16 *k = stages + at / N % 2 * 2 * TILE;
    copies_wait();
    __syncthreads();
    if (at + N < last) {
      bf16 *next = stages + (at / N + 1) % 2 * 2 * TILE;
      fetch<D, N, THREADS>(next, keys, z.ld, at + N, z.s, z);
      fetch<D, N, THREADS>(next + TILE, values, z.ld, at + N, z.s, z);
    }
    if (at >= mine + M * STRIP || mine >= z.s)
      continue;
    float score[M][N / 8][4], dp[M][N / 8][4];
    products<D, N, M>(score, q + strip, k, lane);
    products<D, N, M>(dp, dy + strip, k + TILE, lane);
    if (at + N - 1 > mine)
      mask_future<N, M, false>(score, at - mine, lane);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          statistic row = own[m][i / 2];
          score[m][j][i] = power_of_two(fmaf(score[m][j][i], z.scale * LOG2_E, -row.norm)) *
                           (dp[m][j][i] - row.mean);
        }
    accumulate<D, N, M>(sum, score, k, lane);
  }
  float factor[2] = {z.scale, z.scale};
#pragma unroll
  for (int m = 0; m < M; m++)
    store_rows<D>(sum[m], factor, dqkv + start * z.ld + head * z.d, z.ld, mine + m * STRIP, z.s, z,
                  lane);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* N: rows of a tile that streams; M: strips of a warp; RESIDENT: blocks of a multiprocessor. */
template <int D, int N, int M, int WARPS, int RESIDENT>
static void run_queries(int64_t sequences, const dimensions &z, const bf16 *qkv, const bf16 *dout,
                        const statistic *of, bf16 *dqkv, cudaStream_t stream)
{
  int own = WARPS * M * STRIP, bytes = memory_of<D, N>(2, own);
  dim3 grid = blocks_of(sequences, z.heads, z.s, own);
  allow(tensor_attention_query_kernel<D, N, M, WARPS, RESIDENT>, bytes);
  LAUNCH(grid, WARPS * WARP, bytes, stream, tensor_attention_query_kernel<D, N, M, WARPS, RESIDENT>)
  (z, qkv, dout, of, dqkv);
}

int neapi_tensor_attention_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                    int64_t d, const void *qkv, const void *out, const void *lse,
                                    const void *dout, void *dqkv, void *stream)
{
  dimensions z = dimensions_of(s, heads, kv_heads, d);
  int64_t rows = sequences * s * heads;
  statistic *of = (statistic *)scratch_open(rows * (int64_t)sizeof *of, stream);
  if (!of)
    return NEAPI_KERNEL_MEMORY;
  z.whole = aligned<bf16>(d, qkv, dout, dqkv);
  LAUNCH(blocks_for(rows, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(stream),
         tensor_attention_dots_kernel)
  (rows, d, (const bf16 *)out, (const bf16 *)dout, (const float *)lse, of);
  (d <= 32   ? run_queries<32, 64, 1, 4, 3>
   : d <= 64 ? run_queries<64, 32, 2, 4, 3>
             : run_queries<128, 32, 1, 4, 3>)(sequences, z, (const bf16 *)qkv, (const bf16 *)dout,
                                              of, (bf16 *)dqkv, stream_of(stream));
  neapi_tensor_key_gradients(sequences, z, (const bf16 *)qkv, (const bf16 *)dout, of, (bf16 *)dqkv,
                             stream_of(stream));
  int status = launched();
  scratch_close(of, stream);
  return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by tensor cores, backward: the gradients of keys and values. */
#include "tensor_backward.cuh"

/* From scores (keys, queries) and dp: the probabilities, and in dp the scores' gradients but for
 * the scale. */
template <int N, int M>
__device__ static inline void score_gradients(float (&score)[M][N / 8][4], float (&dp)[M][N / 8][4],
                                              const statistic *of, float scale, int lane)
{
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    float4 two = *(const float4 *)(of + j * 8 + lane % 4 * 2);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float norm = i % 2 ? two.z : two.x, mean = i % 2 ? two.w : two.y;
        score[m][j][i] = power_of_two(fmaf(score[m][j][i], scale, -norm));
        dp[m][j][i] = score[m][j][i] * (dp[m][j][i] - mean);
      }
  }
}

/* dk and dv: a block owns keys, and the queries of all heads that share them stream, with dout. */
template <int D, int N, int M, int WARPS, int RESIDENT>
__global__ void __launch_bounds__(WARPS *WARP, RESIDENT)
    tensor_attention_key_kernel(dimensions z, const bf16 *qkv, const bf16 *dout,
                                const statistic *of, bf16 *dqkv)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * M * STRIP, THREADS = WARPS * WARP };
  bf16 *k = (bf16 *)shared, *v = k + OWN * (D + GAP), *stages = v + OWN * (D + GAP);
  statistic *norms = (statistic *)(stages + 4 * TILE);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, strip = warp * M * STRIP * (D + GAP);
  int kv_head = blockIdx.x % z.kv_heads, at = blockIdx.y * OWN, mine = at + warp * M * STRIP;
  int group = z.heads / z.kv_heads, head = kv_head * group, stop = head + group;
  int64_t start = blockIdx.x / z.kv_heads * (int64_t)z.s;
  int64_t offset = start * z.ld + (z.heads + kv_head) * z.d;
  auto fetch_queries = [&](int half, int head, int first) {
    bf16 *stage = stages + half * 2 * TILE;
    fetch<D, N, THREADS>(stage, qkv + start * z.ld + head * z.d, z.ld, first, z.s, z);
    fetch<D, N, THREADS>(stage + TILE, dout + start * z.ld_out + head * z.d, z.ld_out, first, z.s,
                         z);
    if (threadIdx.x < N) {
      int row = first + threadIdx.x;
      bool real = row < z.s;
      copy_start<8>(norms + half * N + threadIdx.x, real ? of + (start + row) * z.heads + head : of,
                    real);
    }
  };
  float dk[M][D / 8][4], dv[M][D / 8][4];
  clear(dk);
  clear(dv);
  fetch<D, OWN, THREADS>(k, qkv + offset, z.ld, at, z.s, z);
  fetch<D, OWN, THREADS>(v, qkv + offset + z.kv_heads * z.d, z.ld, at, z.s, z);
  fetch_queries(0, head, at);
  for (int first = at, half = 0; head < stop; half = 1 - half) {
    const bf16 *q = stages + half * 2 * TILE;
    int ahead = first - mine;
    copies_wait();
    __syncthreads();
    first += N;
    if (first >= z.s) {
      first = at;
      head++;
    }
    if (head < stop)
      fetch_queries(1 - half, head, first);
    if (ahead + N <= 0 || mine >= z.s)
      continue;
    float score[M][N / 8][4], dp[M][N / 8][4];
    products<D, N, M>(score, k + strip, q, lane);
    products<D, N, M>(dp, v + strip, q + TILE, lane);
    if (ahead < M * STRIP - 1)
      mask_future<N, M, true>(score, ahead, lane);
    score_gradients<N, M>(score, dp, norms + half * N, z.scale * LOG2_E, lane);
    accumulate<D, N, M>(dv, score, q + TILE, lane);
    accumulate<D, N, M>(dk, dp, q, lane);
  }
  float factor[2] = {z.scale, z.scale}, one[2] = {1, 1};
  bf16 *to = dqkv + offset;
#pragma unroll
  for (int m = 0; m < M; m++) {
    store_rows<D>(dk[m], factor, to, z.ld, mine + m * STRIP, z.s, z, lane);
    store_rows<D>(dv[m], one, to + z.kv_heads * z.d, z.ld, mine + m * STRIP, z.s, z, lane);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Template arguments as in tensor_backward.cu. */
template <int D, int N, int M, int WARPS, int RESIDENT>
static void run_keys(int64_t sequences, const dimensions &z, const bf16 *qkv, const bf16 *dout,
                     const statistic *of, bf16 *dqkv, cudaStream_t stream)
{
  int own = WARPS * M * STRIP, norms = 2 * N * (int)sizeof(statistic);
  int bytes = memory_of<D, N>(2, own) + norms;
  dim3 grid = blocks_of(sequences, z.kv_heads, z.s, own);
  allow(tensor_attention_key_kernel<D, N, M, WARPS, RESIDENT>, bytes);
  LAUNCH(grid, WARPS * WARP, bytes, stream, tensor_attention_key_kernel<D, N, M, WARPS, RESIDENT>)
  (z, qkv, dout, of, dqkv);
}

void neapi_tensor_key_gradients(int64_t sequences, const dimensions &z, const bf16 *qkv,
                                const bf16 *dout, const statistic *of, bf16 *dqkv,
                                cudaStream_t stream)
{
  (z.d <= 32   ? run_keys<32, 64, 1, 4, 3>
   : z.d <= 64 ? run_keys<64, 32, 2, 4, 2>
               : run_keys<128, 32, 1, 4, 2>)(sequences, z, qkv, dout, of, dqkv, stream);
}

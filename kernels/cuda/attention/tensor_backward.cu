/* Attention by tensor cores, backward (see tensor.cuh): queries' gradients by blocks of
 * queries, keys' and values' by blocks of keys, each of which recomputes the probabilities. */
#include "tensor.cuh"

/* Of a query, for the gradients: its log-sum-exp in units of log 2, and the sum of out dout. */
typedef struct alignas(8) {
  float norm, mean;
} statistic;

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

/* out = own strips times the transpose of tile (N, D). */
template <int D, int N, int M>
__device__ static inline void products(float (&out)[M][N / 8][4], const bf16 *strips,
                                       const bf16 *tile, int lane)
{
  clear(out);
#pragma unroll
  for (int c = 0; c < D; c += 16) {
    uint32_t a[M][4];
    load_rows<D, M>(a, strips, c, lane);
    against<D, N, M>(out, a, tile, c, lane);
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
  (d <= 32   ? run_keys<32, 64, 1, 4, 3>
   : d <= 64 ? run_keys<64, 32, 2, 4, 2>
             : run_keys<128, 32, 1, 4, 2>)(sequences, z, (const bf16 *)qkv, (const bf16 *)dout, of,
                                           (bf16 *)dqkv, stream_of(stream));
  int status = launched();
  scratch_close(of, stream);
  return status;
}

/* Causal attention of bf16 by tensor cores (after Dao et al. 2022 and 2023). A block owns a tile of
 * queries of one head (or, for the gradients of keys and values, of keys), a warp 16 rows of it;
 * tiles of the other side stream through shared memory, the next one while this one is used.
 *
 * A query meets the tiles of keys from 0 up, and its place in tiles is that in its sequence, so its
 * bits depend on its sequence up to it alone. Probabilities and gradients of scores are rounded to
 * bf16 as factors of the second product; sums are float. Gradients are summed by one warp, in the
 * order of heads and queries (or keys): a block for each side costs two products more than one for
 * both would, and needs no atomics. */
#include "tensor_attention.h"

#include "tensor.cuh"

#include <atomic>
#include <math.h>

enum { STRIP = 16, GAP = 8, MOST_D = 128, MOST_DEVICES = 64 };

static const float LOG2_E = 1.44269504f;

/* Sizes of an attention, and the widths of its rows; whole: rows allow 16-byte access. */
typedef struct {
  int s, heads, kv_heads, d;
  int64_t ld, ld_out;
  float scale;
  bool whole;
} dimensions;

/* Of a query, for the gradients: its log-sum-exp in units of log 2, and the sum of out dout. */
typedef struct alignas(8) {
  float norm, mean;
} statistic;

/* ---- tiles in shared memory: rows of D + GAP, so that eight rows lie in different banks ------ */

/* Starts to fetch COUNT rows of x from `first` on; what lies outside (end, d) becomes 0. */
template <int D, int COUNT, int THREADS>
__device__ static inline void fetch(bf16 *tile, const bf16 *x, int64_t ld, int first, int end,
                                    const dimensions &z)
{
  enum { PIECES = D / pack<bf16>::SIZE, STEP = THREADS / PIECES };
  static_assert(COUNT % STEP == 0, "every thread fetches the same number of pieces");
  int c = threadIdx.x % PIECES * pack<bf16>::SIZE, row = threadIdx.x / PIECES;
  bf16 *to = tile + row * (D + GAP) + c;
  if (z.whole) {
    const bf16 *from = x + (first + row) * ld + c;
#pragma unroll
    for (int i = 0; i < COUNT; i += STEP) {
      bool real = first + row + i < end && c < z.d;
      copy_start<16>(to + i * (D + GAP), real ? from + i * ld : x, real);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < COUNT; i += STEP) {
    pack<bf16> piece;
    bool real = first + row + i < end;
    load(piece, real ? x + (first + row + i) * ld : x, c, real ? z.d : 0, false);
    *(pack<bf16> *)(to + i * (D + GAP)) = piece;
  }
}

/* The columns c to c + 15 of a warp's rows. */
template <int D>
__device__ static inline void load_rows(uint32_t (&a)[4], const bf16 *rows, int c, int lane)
{
  load_matrices(a, rows + lane % 16 * (D + GAP) + c + lane / 16 * 8);
}

/* out (16, N) += a (16, 16) times the transpose of the columns c to c + 15 of tile (N, D). */
template <int D, int N>
__device__ static inline void against(float (&out)[N / 8][4], const uint32_t (&a)[4],
                                      const bf16 *tile, int c, int lane)
{
  const bf16 *row = tile + (lane % 8 + lane / 16 * 8) * (D + GAP) + c + lane / 8 % 2 * 8;
#pragma unroll
  for (int j = 0; j < N / 8; j += 2) {
    uint32_t b[4];
    load_matrices(b, row + j * 8 * (D + GAP));
    multiply(out[j], a, b[0], b[1]);
    multiply(out[j + 1], a, b[2], b[3]);
  }
}

/* out (16, D) += p (16, N), rounded, times tile (N, D). */
template <int D, int N>
__device__ static inline void gather(float (&out)[D / 8][4], const float (&p)[N / 8][4],
                                     const bf16 *tile, int lane)
{
  const bf16 *row = tile + lane % 16 * (D + GAP) + lane / 16 * 8;
#pragma unroll
  for (int r = 0; r < N / 8; r += 2) {
    uint32_t a[4] = {pair_of(p[r][0], p[r][1]), pair_of(p[r][2], p[r][3]),
                     pair_of(p[r + 1][0], p[r + 1][1]), pair_of(p[r + 1][2], p[r + 1][3])};
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      load_transposed(b, row + r * 8 * (D + GAP) + j * 8);
      multiply(out[j], a, b[0], b[1]);
      multiply(out[j + 1], a, b[2], b[3]);
    }
  }
}

template <int COUNT> __device__ static inline void clear(float (&x)[COUNT][4])
{
#pragma unroll
  for (int j = 0; j < COUNT; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      x[j][i] = 0;
}

/* Writes a warp's (16, D), times factor[i] for rows of half i, to rows first to end of x. */
template <int D>
__device__ static void store_rows(const float (&sum)[D / 8][4], const float (&factor)[2], bf16 *x,
                                  int64_t ld, int first, int end, const dimensions &z, int lane)
{
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int row = first + lane / 4 + i * 8;
    if (row >= end)
      continue;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      int c = j * 8 + lane % 4 * 2;
      bf16 *to = x + row * ld + c;
      float one = sum[j][2 * i] * factor[i], two = sum[j][2 * i + 1] * factor[i];
      if (z.whole && c < z.d)
        *(uint32_t *)to = pair_of(one, two);
      if (!z.whole && c < z.d)
        to[0] = __float2bfloat16(one);
      if (!z.whole && c + 1 < z.d)
        to[1] = __float2bfloat16(two);
    }
  }
}

/* ---- forward --------------------------------------------------------------------------------- */

/* A warp's scores against the keys from `at` on become weights relative to the largest score so
 * far; what was summed before fades accordingly. `total` holds this lane's share of the weights. */
template <int D, int N>
__device__ static inline void soften(float (&score)[N / 8][4], float (&sum)[D / 8][4],
                                     float (&max)[2], float (&total)[2], float scale)
{
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float largest = max[i], part = 0;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
      largest = fmaxf(largest, fmaxf(score[j][2 * i], score[j][2 * i + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float fade = power_of_two((max[i] - largest) * scale), base = largest * scale;
    max[i] = largest;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int c = 2 * i; c < 2 * i + 2; c++) {
        score[j][c] = power_of_two(fmaf(score[j][c], scale, -base));
        part += score[j][c];
      }
    total[i] = total[i] * fade + part;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      sum[j][2 * i] *= fade;
      sum[j][2 * i + 1] *= fade;
    }
  }
}

/* Scores of keys after their query become -infinity. Columns are keys, or, if ACROSS, queries; the
 * first one is `ahead` of the warp's first row. */
template <int N, bool ACROSS>
__device__ static inline void hide_future(float (&score)[N / 8][4], int ahead, int lane)
{
#pragma unroll
  for (int j = 0; j < N / 8; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = ahead + j * 8 + lane % 4 * 2 + i % 2;
      if (ACROSS ? column < row : column > row)
        score[j][i] = -INFINITY;
    }
}

template <int D, int N, int WARPS>
__global__ void __launch_bounds__(WARPS *WARP, 2)
    tensor_forward(dimensions z, const bf16 *qkv, bf16 *out, float *lse)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * STRIP, THREADS = WARPS * WARP };
  bf16 *q = (bf16 *)shared, *stages = q + OWN * (D + GAP);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int head = blockIdx.x % z.heads, first = (gridDim.y - 1 - blockIdx.y) * OWN;
  int mine = first + warp * STRIP, last = min(first + OWN, z.s);
  int64_t start = blockIdx.x / z.heads * (int64_t)z.s;
  const bf16 *rows = qkv + start * z.ld;
  const bf16 *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * (int64_t)z.d;
  const bf16 *values = keys + z.kv_heads * z.d;
  float sum[D / 8][4], max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  uint32_t query[D / 16][4];
  clear(sum);
  fetch<D, OWN, THREADS>(q, rows + head * z.d, z.ld, first, z.s, z);
  fetch<D, N, THREADS>(stages, keys, z.ld, 0, z.s, z);
  fetch<D, N, THREADS>(stages + TILE, values, z.ld, 0, z.s, z);
  for (int at = 0; at < last; at += N) {
    const bf16 *k = stages + at / N % 2 * 2 * TILE;
    copies_wait();
    __syncthreads();
    if (at + N < last) {
      bf16 *next = stages + (at / N + 1) % 2 * 2 * TILE;
      fetch<D, N, THREADS>(next, keys, z.ld, at + N, z.s, z);
      fetch<D, N, THREADS>(next + TILE, values, z.ld, at + N, z.s, z);
    }
    if (at >= mine + STRIP || mine >= z.s)
      continue;
    float score[N / 8][4];
    clear(score);
#pragma unroll
    for (int c = 0; c < D; c += 16) {
      if (at == 0)
        load_rows<D>(query[c / 16], q + warp * STRIP * (D + GAP), c, lane);
      against<D, N>(score, query[c / 16], k, c, lane);
    }
    if (at + N - 1 > mine)
      hide_future<N, false>(score, at - mine, lane);
    soften<D, N>(score, sum, max, total, z.scale * LOG2_E);
    gather<D, N>(sum, score, k + TILE, lane);
  }
  float factor[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    factor[i] = 1 / total[i];
    int row = mine + lane / 4 + i * 8;
    if (lane % 4 == 0 && row < z.s)
      lse[(start + row) * z.heads + head] = max[i] * z.scale + logf(total[i]);
  }
  store_rows<D>(sum, factor, out + start * z.ld_out + head * z.d, z.ld_out, mine, z.s, z, lane);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* of[t, head]; a warp each. */
static __global__ void tensor_statistics(int64_t rows, int64_t d, const bf16 *out, const bf16 *dout,
                                         const float *lse, statistic *of)
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

/* out = own strip times the transpose of tile (N, D). */
template <int D, int N>
__device__ static inline void products(float (&out)[N / 8][4], const bf16 *strip, const bf16 *tile,
                                       int lane)
{
  clear(out);
#pragma unroll
  for (int c = 0; c < D; c += 16) {
    uint32_t a[4];
    load_rows<D>(a, strip, c, lane);
    against<D, N>(out, a, tile, c, lane);
  }
}

/* dq: a block owns queries, and keys and values stream. */
template <int D, int N, int WARPS, int RESIDENT>
__global__ void __launch_bounds__(WARPS *WARP, RESIDENT)
    tensor_query_gradient(dimensions z, const bf16 *qkv, const bf16 *dout, const statistic *of,
                          bf16 *dqkv)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * STRIP, THREADS = WARPS * WARP };
  bf16 *q = (bf16 *)shared, *dy = q + OWN * (D + GAP), *stages = dy + OWN * (D + GAP);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, strip = warp * STRIP * (D + GAP);
  int head = blockIdx.x % z.heads, first = (gridDim.y - 1 - blockIdx.y) * OWN;
  int mine = first + warp * STRIP, last = min(first + OWN, z.s);
  int64_t start = blockIdx.x / z.heads * (int64_t)z.s;
  const bf16 *rows = qkv + start * z.ld;
  const bf16 *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * (int64_t)z.d;
  const bf16 *values = keys + z.kv_heads * z.d;
  float sum[D / 8][4];
  statistic own[2];
  clear(sum);
  fetch<D, OWN, THREADS>(q, rows + head * z.d, z.ld, first, z.s, z);
  fetch<D, OWN, THREADS>(dy, dout + start * z.ld_out + head * z.d, z.ld_out, first, z.s, z);
  fetch<D, N, THREADS>(stages, keys, z.ld, 0, z.s, z);
  fetch<D, N, THREADS>(stages + TILE, values, z.ld, 0, z.s, z);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int row = mine + lane / 4 + i * 8;
    own[i] = {0, 0};
    if (row < z.s)
      own[i] = of[(start + row) * z.heads + head];
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
    if (at >= mine + STRIP || mine >= z.s)
      continue;
    float score[N / 8][4], dp[N / 8][4];
    products<D, N>(score, q + strip, k, lane);
    products<D, N>(dp, dy + strip, k + TILE, lane);
    if (at + N - 1 > mine)
      hide_future<N, false>(score, at - mine, lane);
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        score[j][i] = power_of_two(fmaf(score[j][i], z.scale * LOG2_E, -own[i / 2].norm)) *
                      (dp[j][i] - own[i / 2].mean);
    gather<D, N>(sum, score, k, lane);
  }
  float factor[2] = {z.scale, z.scale};
  store_rows<D>(sum, factor, dqkv + start * z.ld + head * z.d, z.ld, mine, z.s, z, lane);
}

/* From scores (keys, queries) and dp: the probabilities, and in dp the scores' gradients but for
 * the scale. */
template <int N>
__device__ static inline void slopes(float (&score)[N / 8][4], float (&dp)[N / 8][4],
                                     const statistic *of, float scale, int lane)
{
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    float4 two = *(const float4 *)(of + j * 8 + lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float norm = i % 2 ? two.z : two.x, mean = i % 2 ? two.w : two.y;
      score[j][i] = power_of_two(fmaf(score[j][i], scale, -norm));
      dp[j][i] = score[j][i] * (dp[j][i] - mean);
    }
  }
}

/* dk and dv: a block owns keys, and the queries of all heads that share them stream, with dout. */
template <int D, int N, int WARPS, int RESIDENT>
__global__ void __launch_bounds__(WARPS *WARP, RESIDENT)
    tensor_key_gradient(dimensions z, const bf16 *qkv, const bf16 *dout, const statistic *of,
                        bf16 *dqkv)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * STRIP, THREADS = WARPS * WARP };
  bf16 *k = (bf16 *)shared, *v = k + OWN * (D + GAP), *stages = v + OWN * (D + GAP);
  statistic *norms = (statistic *)(stages + 4 * TILE);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, strip = warp * STRIP * (D + GAP);
  int kv_head = blockIdx.x % z.kv_heads, at = blockIdx.y * OWN, mine = at + warp * STRIP;
  int group = z.heads / z.kv_heads, head = kv_head * group, stop = head + group;
  int64_t start = blockIdx.x / z.kv_heads * (int64_t)z.s;
  int64_t place = start * z.ld + (z.heads + kv_head) * z.d;
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
  float dk[D / 8][4], dv[D / 8][4];
  clear(dk);
  clear(dv);
  fetch<D, OWN, THREADS>(k, qkv + place, z.ld, at, z.s, z);
  fetch<D, OWN, THREADS>(v, qkv + place + z.kv_heads * z.d, z.ld, at, z.s, z);
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
    float score[N / 8][4], dp[N / 8][4];
    products<D, N>(score, k + strip, q, lane);
    products<D, N>(dp, v + strip, q + TILE, lane);
    if (ahead < STRIP - 1)
      hide_future<N, true>(score, ahead, lane);
    slopes<N>(score, dp, norms + half * N, z.scale * LOG2_E, lane);
    gather<D, N>(dv, score, q + TILE, lane);
    gather<D, N>(dk, dp, q, lane);
  }
  float factor[2] = {z.scale, z.scale}, one[2] = {1, 1};
  bf16 *to = dqkv + place;
  store_rows<D>(dk, factor, to, z.ld, mine, z.s, z, lane);
  store_rows<D>(dv, one, to + z.kv_heads * z.d, z.ld, mine, z.s, z, lane);
}

/* ---- launchers ------------------------------------------------------------------------------- */

static dimensions dimensions_of(int64_t s, int64_t heads, int64_t kv_heads, int64_t d)
{
  dimensions z = {(int)s,    (int)heads, (int)kv_heads, (int)d, (heads + 2 * kv_heads) * d,
                  heads * d, 0,          false};
  z.scale = (float)(1 / sqrt((double)d));
  return z;
}

/* Bytes of a block's own rows and of two stages of two tiles. */
template <int D, int N, int WARPS> static int memory_of(int arrays)
{
  return (arrays * WARPS * STRIP + 4 * N) * (D + GAP) * (int)sizeof(bf16) +
         2 * N * (int)sizeof(statistic);
}

/* Blocks for tiles of `rows` of so many heads. */
static dim3 blocks_of(int64_t sequences, int64_t heads, int64_t s, int rows)
{
  return dim3((unsigned)(sequences * heads), (unsigned)((s + rows - 1) / rows));
}

template <class KERNEL> static void allow(KERNEL *kernel, int bytes)
{
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <int D, int N, int WARPS>
static int run_forward(int64_t sequences, const dimensions &z, const bf16 *qkv, bf16 *out,
                       float *lse, cudaStream_t stream)
{
  int bytes = memory_of<D, N, WARPS>(1);
  allow(tensor_forward<D, N, WARPS>, bytes);
  tensor_forward<D, N, WARPS>
      <<<blocks_of(sequences, z.heads, z.s, WARPS * STRIP), WARPS * WARP, bytes, stream>>>(
          z, qkv, out, lse);
  return launched();
}

template <int D, int N, int WARPS, int RESIDENT>
static int run_backward(int64_t sequences, const dimensions &z, const bf16 *qkv, const bf16 *dout,
                        const statistic *of, bf16 *dqkv, cudaStream_t stream)
{
  int bytes = memory_of<D, N, WARPS>(2);
  allow(tensor_query_gradient<D, N, WARPS, RESIDENT>, bytes);
  allow(tensor_key_gradient<D, N, WARPS, RESIDENT>, bytes);
  tensor_query_gradient<D, N, WARPS, RESIDENT>
      <<<blocks_of(sequences, z.heads, z.s, WARPS * STRIP), WARPS * WARP, bytes, stream>>>(
          z, qkv, dout, of, dqkv);
  tensor_key_gradient<D, N, WARPS, RESIDENT>
      <<<blocks_of(sequences, z.kv_heads, z.s, WARPS * STRIP), WARPS * WARP, bytes, stream>>>(
          z, qkv, dout, of, dqkv);
  return launched();
}

/* Whether the kernels in this program were compiled for instructions of sm_80, which those for an
 * older GPU, translated by the driver, were not. */
static bool compiled_for_it(void)
{
  static std::atomic<int> known[MOST_DEVICES]; /* 0: not yet; 1: no; 2: yes */
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= MOST_DEVICES)
    return false;
  if (!known[device]) {
    cudaFuncAttributes attributes;
    bool good = cudaFuncGetAttributes(&attributes, tensor_statistics) == cudaSuccess;
    known[device] = good && attributes.ptxVersion >= 80 ? 2 : 1;
    cudaGetLastError();
  }
  return known[device] == 2;
}

bool neapi_tensor_attention_fits(int64_t d)
{
  return d <= MOST_D && compiled_for_it();
}

int neapi_tensor_attention(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                           const void *qkv, void *out, void *lse, void *stream)
{
  dimensions z = dimensions_of(s, heads, kv_heads, d);
  if (!sequences || !s || !heads)
    return NEAPI_KERNEL_OK;
  z.whole = aligned<bf16>(d, qkv, out);
  return (d <= 32   ? run_forward<32, 64, 8>
          : d <= 64 ? run_forward<64, 64, 8>
                    : run_forward<128, 64, 4>)(sequences, z, (const bf16 *)qkv, (bf16 *)out,
                                               (float *)lse, stream_of(stream));
}

int neapi_tensor_attention_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                    int64_t d, const void *qkv, const void *out, const void *lse,
                                    const void *dout, void *dqkv, void *stream)
{
  dimensions z = dimensions_of(s, heads, kv_heads, d);
  int64_t rows = sequences * s * heads;
  if (!rows)
    return NEAPI_KERNEL_OK;
  statistic *of = (statistic *)scratch_open(rows * (int64_t)sizeof *of, stream);
  if (!of)
    return NEAPI_KERNEL_MEMORY;
  z.whole = aligned<bf16>(d, qkv, dout, dqkv);
  tensor_statistics<<<blocks_for(rows, ROWS_A_BLOCK), warp_rows(), 0, stream_of(stream)>>>(
      rows, d, (const bf16 *)out, (const bf16 *)dout, (const float *)lse, of);
  int status =
      (d <= 32   ? run_backward<32, 64, 4, 3>
       : d <= 64 ? run_backward<64, 64, 4, 3>
                 : run_backward<128, 32, 4, 2>)(sequences, z, (const bf16 *)qkv, (const bf16 *)dout,
                                                of, (bf16 *)dqkv, stream_of(stream));
  scratch_close(of, stream);
  return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by tensor cores, forward (see tensor.cuh). */
#include "tensor.cuh"

#include <atomic>

enum { MOST_D = 128, MOST_DEVICES = 64 };

/* A strip's scores against the keys from `at` on become weights relative to the largest score so
 * far; what was summed before fades accordingly. `total` holds this lane's share of the weights. */
template <int D, int N>
__device__ static inline void online_softmax(float (&score)[N / 8][4], float (&sum)[D / 8][4],
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

/* Writes a strip's results, from row `first` of its sequence on; out, lse: the sequence's head. */
template <int D>
__device__ static inline void finish(const float (&sum)[D / 8][4], const float (&max)[2],
                                     float (&total)[2], bf16 *out, float *lse, int first,
                                     const dimensions &z, int lane)
{
  float factor[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    factor[i] = 1 / total[i];
    int row = first + lane / 4 + i * 8;
    if (lane % 4 == 0 && row < z.s)
      lse[(int64_t)row * z.heads] = max[i] * z.scale + logf(total[i]);
  }
  store_rows<D>(sum, factor, out, z.ld_out, first, z.s, z, lane);
}

template <int D, int N, int M, int WARPS, int RESIDENT>
__global__ void __launch_bounds__(WARPS *WARP, RESIDENT)
    tensor_attention_kernel(dimensions z, const bf16 *qkv, bf16 *out, float *lse)
{
  extern __shared__ uint4 shared[];
  enum { TILE = N * (D + GAP), OWN = WARPS * M * STRIP, THREADS = WARPS * WARP };
  bf16 *q = (bf16 *)shared, *stages = q + OWN * (D + GAP);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int head = blockIdx.x % z.heads, first = (gridDim.y - 1 - blockIdx.y) * OWN;
  int mine = first + warp * M * STRIP, last = min(first + OWN, z.s);
  int64_t start = blockIdx.x / z.heads * (int64_t)z.s;
  const bf16 *rows = qkv + start * z.ld;
  const bf16 *keys = rows + (z.heads + head / (z.heads / z.kv_heads)) * (int64_t)z.d;
  const bf16 *values = keys + z.kv_heads * z.d;
  float sum[M][D / 8][4], max[M][2], total[M][2];
  uint32_t query[D / 16][M][4];
  clear(sum);
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    max[i / 2][i % 2] = -INFINITY;
    total[i / 2][i % 2] = 0;
  }
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
    if (at >= mine + M * STRIP || mine >= z.s)
      continue;
    float score[M][N / 8][4];
    clear(score);
#pragma unroll
    for (int c = 0; c < D; c += 16) {
      if (at == 0)
        load_rows<D, M>(query[c / 16], q + warp * M * STRIP * (D + GAP), c, lane);
      against<D, N, M>(score, query[c / 16], k, c, lane);
    }
    if (at + N - 1 > mine)
      mask_future<N, M, false>(score, at - mine, lane);
#pragma unroll
    for (int m = 0; m < M; m++)
      online_softmax<D, N>(score[m], sum[m], max[m], total[m], z.scale * LOG2_E);
    accumulate<D, N, M>(sum, score, k + TILE, lane);
  }
#pragma unroll
  for (int m = 0; m < M; m++)
    finish<D>(sum[m], max[m], total[m], out + start * z.ld_out + head * z.d,
              lse + start * z.heads + head, mine + m * STRIP, z, lane);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* N: rows of a tile that streams; M: strips of a warp; RESIDENT: blocks of a multiprocessor. */
template <int D, int N, int M, int WARPS, int RESIDENT>
static void run_forward(int64_t sequences, const dimensions &z, const bf16 *qkv, bf16 *out,
                        float *lse, cudaStream_t stream)
{
  int own = WARPS * M * STRIP, bytes = memory_of<D, N>(1, own);
  dim3 grid = blocks_of(sequences, z.heads, z.s, own);
  allow(tensor_attention_kernel<D, N, M, WARPS, RESIDENT>, bytes);
  LAUNCH(grid, WARPS * WARP, bytes, stream, tensor_attention_kernel<D, N, M, WARPS, RESIDENT>)
  (z, qkv, out, lse);
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
    bool good =
        cudaFuncGetAttributes(&attributes, tensor_attention_kernel<64, 64, 2, 4, 2>) == cudaSuccess;
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
  z.whole = aligned<bf16>(d, qkv, out);
  (d <= 32   ? run_forward<32, 64, 1, 8, 2>
   : d <= 64 ? run_forward<64, 64, 2, 4, 2>
             : run_forward<128, 64, 1, 4, 2>)(sequences, z, (const bf16 *)qkv, (bf16 *)out,
                                              (float *)lse, stream_of(stream));
  return launched();
}

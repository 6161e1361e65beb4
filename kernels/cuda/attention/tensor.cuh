/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention of bf16 by tensor cores (after Dao et al. 2022 and 2023). A block owns a tile of
 * queries of one head (or, for the gradients of keys and values, of keys), each warp 16 rows of it;
 * tiles of the other side stream through shared memory, the next one while this one is used.
 *
 * A query meets the tiles of keys from 0 up, and its position in tiles is that in its sequence, so
 * its bits depend on its sequence up to it alone. Probabilities and gradients of scores are rounded
 * to bf16 as factors of the second product; sums are float. Gradients are summed by one warp, in
 * the order of heads and queries (or keys): a block for each side costs two products more than one
 * for both would, and needs no atomics. */
#ifndef NEAPI_TENSOR_ATTENTION_CUH
#define NEAPI_TENSOR_ATTENTION_CUH

#include "../tensor_cores.cuh"
#include "attention.h"

#include <math.h>

enum { STRIP = 16, GAP = 8 };

static const float LOG2_E = 1.44269504f;

/* Sizes of an attention, and the widths of its rows; whole: rows allow 16-byte access. */
typedef struct {
  int s, heads, kv_heads, d;
  int64_t ld, ld_out;
  float scale;
  bool whole;
} dimensions;

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

/* The columns c to c + 15 of a warp's strips. */
template <int D, int M>
__device__ static inline void load_rows(uint32_t (&a)[M][4], const bf16 *rows, int c, int lane)
{
#pragma unroll
  for (int m = 0; m < M; m++)
    load_matrices(a[m], rows + (m * STRIP + lane % 16) * (D + GAP) + c + lane / 16 * 8);
}

/* out (16, N) += a (16, 16) times the transpose of the columns c to c + 15 of tile (N, D), for each
 * strip. */
template <int D, int N, int M>
__device__ static inline void against(float (&out)[M][N / 8][4], const uint32_t (&a)[M][4],
                                      const bf16 *tile, int c, int lane)
{
  const bf16 *row = tile + (lane % 8 + lane / 16 * 8) * (D + GAP) + c + lane / 8 % 2 * 8;
#pragma unroll
  for (int j = 0; j < N / 8; j += 2) {
    uint32_t b[4];
    load_matrices(b, row + j * 8 * (D + GAP));
#pragma unroll
    for (int m = 0; m < M; m++) {
      multiply(out[m][j], a[m], b[0], b[1]);
      multiply(out[m][j + 1], a[m], b[2], b[3]);
    }
  }
}

/* out (16, D) += p (16, N), rounded, times tile (N, D), for each strip. */
template <int D, int N, int M>
__device__ static inline void accumulate(float (&out)[M][D / 8][4], const float (&p)[M][N / 8][4],
                                         const bf16 *tile, int lane)
{
  const bf16 *row = tile + lane % 16 * (D + GAP) + lane / 16 * 8;
#pragma unroll
  for (int r = 0; r < N / 8; r += 2) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        a[m][i] = pair_of(p[m][r + i / 2][i % 2 * 2], p[m][r + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      load_transposed(b, row + r * 8 * (D + GAP) + j * 8);
#pragma unroll
      for (int m = 0; m < M; m++) {
        multiply(out[m][j], a[m], b[0], b[1]);
        multiply(out[m][j + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <int M, int COUNT> __device__ static inline void clear(float (&x)[M][COUNT][4])
{
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int j = 0; j < COUNT; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        x[m][j][i] = 0;
}

/* Writes a strip's (16, D), times factor[i] for rows of half i, to rows first to end of x. */
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

/* Scores of keys after their query become -infinity. Columns are keys, or, if ACROSS, queries; the
 * first one is `ahead` of the warp's first row. */
template <int N, int M, bool ACROSS>
__device__ static inline void mask_future(float (&score)[M][N / 8][4], int ahead, int lane)
{
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = m * STRIP + lane / 4 + i / 2 * 8;
        int column = ahead + j * 8 + lane % 4 * 2 + i % 2;
        if (ACROSS ? column < row : column > row)
          score[m][j][i] = -INFINITY;
      }
}

/* ---- launching ------------------------------------------------------------------------------- */

static inline dimensions dimensions_of(int64_t s, int64_t heads, int64_t kv_heads, int64_t d)
{
  dimensions z = {(int)s, (int)heads, (int)kv_heads, (int)d, 0, 0, 0, false};
  z.ld = (heads + 2 * kv_heads) * d;
  z.ld_out = heads * d;
  z.scale = (float)(1 / sqrt((double)d));
  return z;
}

/* Bytes of so many arrays of a block's own rows, and of two stages of two tiles. */
template <int D, int N> static inline int memory_of(int arrays, int own)
{
  return (arrays * own + 4 * N) * (D + GAP) * (int)sizeof(bf16);
}

/* Blocks for tiles of `own` rows of so many heads. */
static inline dim3 blocks_of(int64_t sequences, int64_t heads, int64_t s, int own)
{
  return dim3((unsigned)(sequences * heads), (unsigned)((s + own - 1) / own));
}

template <class KERNEL> static inline void allow(KERNEL *kernel, int bytes)
{
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

#endif

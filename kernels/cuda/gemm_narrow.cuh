/* SPDX-License-Identifier: Apache-2.0 */
/* Products of bf16 matrices with a side below NARROW, a router's: cuBLAS has nothing fast for them.
 * Each is to take the time that its large operand takes to be read (or read and written) once, so
 * that every one keeps many loads under way and has blocks for all multiprocessors.
 *
 *   flat      c (M, N) = a b    N narrow   a block makes 64 rows of c and walks K
 *   shallow   c (M, N) = a b    K narrow   a block makes 64 rows of c and 16 packs of each
 *   gradient  c (K, N) = a^T b  N narrow   a block makes 128 rows of c for its part of the tokens
 *
 * Flat and shallow walk K from 0 up in one order: an element's bits depend on its row of a and its
 * column of b alone. The gradient's parts are added in their order; what a part is depends on
 * sizes alone. How operands are read, by packs or by elements, changes no bits. */
#ifndef NEAPI_GEMM_NARROW_CUH
#define NEAPI_GEMM_NARROW_CUH

#include "tensor_cores.cuh"

enum { THREADS = 128, WARPS = THREADS / WARP, FRAGMENT = 16, EIGHT = 8, PAD = 8, STAGES = 4 };

/* ---- operands -------------------------------------------------------------------------------- */

/* Element (i, j) is at[i * down + j * along]. whole: rows are whole packs. */
typedef struct {
  const bf16 *at;
  int64_t rows, columns, down, along;
  bool whole;
} matrix;

static inline matrix matrix_of(const void *at, int64_t rows, int64_t columns, int64_t ld,
                               bool turned)
{
  bool whole = !turned && aligned<bf16>(ld | columns, at);
  return {(const bf16 *)at, rows, columns, turned ? 1 : ld, turned ? ld : 1, whole};
}

/* tile[i][j] = x(row + i, column + j), beyond the edges 0; a line has COLUMNS + PAD elements. Done
 * after the wait for its group and a barrier. */
template <int LINES, int COLUMNS>
__device__ static inline void copy(bf16 *tile, const matrix &x, int64_t row, int64_t column)
{
  enum { SIZE = pack<bf16>::SIZE, PACKS_PER_LINE = COLUMNS == 48 ? 8 : COLUMNS / SIZE };
  enum { STEP = THREADS / PACKS_PER_LINE }; /* lines that the block copies at once */
  int i = threadIdx.x / PACKS_PER_LINE, j = threadIdx.x % PACKS_PER_LINE * SIZE;
  int lines = x.rows - row < LINES ? (int)(x.rows - row) : LINES;
  int64_t left = x.columns - column - j;
  const bf16 *from = x.at + (row + i) * x.down + (column + j) * x.along;
  tile += i * (COLUMNS + PAD) + j;
  if (j >= COLUMNS)
    return;
  if (x.whole)
#pragma unroll
    for (int k = 0; k < LINES; k += STEP) {
      bool real = i + k < lines && left > 0;
      if (i + k < LINES)
        copy_start<16>(tile + k * (COLUMNS + PAD), real ? from : x.at, real);
      from += STEP * x.down;
    }
  else
#pragma unroll 1
    for (; i < LINES; i += STEP, from += STEP * x.down, tile += STEP * (COLUMNS + PAD)) {
      pack<bf16> p;
#pragma unroll
      for (int e = 0; e < SIZE; e++)
        p.at[e] = i < lines && e < left ? from[e * x.along] : real_of<bf16>(0.0f);
      store(p, tile, 0, 0, true);
    }
}

/* ---- products of tiles in shared memory ------------------------------------------------------ */

/* sum += x b, for LINES tiles of 16 rows; b (16, WIDTH) by rows of WIDTH + PAD. */
template <int LINES, int WIDTH>
__device__ static inline void multiply_tiles(float (&sum)[LINES][WIDTH / EIGHT][4],
                                             const uint32_t (&x)[LINES][4], const bf16 *b)
{
  int lane = threadIdx.x % WARP;
  b += lane % FRAGMENT * (WIDTH + PAD) + lane / FRAGMENT * EIGHT;
#pragma unroll
  for (int j = 0; j < WIDTH / EIGHT; j += 2) {
    uint32_t y[4];
    load_transposed(y, b + j * EIGHT);
#pragma unroll
    for (int i = 0; i < LINES; i++) {
      multiply(sum[i][j], x[i], y[0], y[1]);
      multiply(sum[i][j + 1], x[i], y[2], y[3]);
    }
  }
}

/* Where element 2 i + j of a lane's array of sums lies in its tile. */
__device__ static inline int line_of(int i)
{
  return threadIdx.x % WARP / 4 + i * EIGHT;
}
__device__ static inline int column_of(int j)
{
  return threadIdx.x % 4 * 2 + j;
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Allows a kernel the shared memory of a launch. */
template <class KERNEL> static inline int allow(KERNEL *kernel, int bytes)
{
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/* function<size up to a multiple of 16, ...>(...) for a narrow size. */
#define BY_SIZE(size, function, ...)                                                               \
  switch (((size) + FRAGMENT - 1) / FRAGMENT) {                                                    \
  case 0:                                                                                          \
  case 1:                                                                                          \
    return function<16>(__VA_ARGS__);                                                              \
  case 2:                                                                                          \
    return function<32>(__VA_ARGS__);                                                              \
  case 3:                                                                                          \
    return function<48>(__VA_ARGS__);                                                              \
  default:                                                                                         \
    return function<64>(__VA_ARGS__);                                                              \
  }

#endif

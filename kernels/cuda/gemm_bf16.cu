/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products of our own for bf16, where cuBLAS is absent or the shape suits neither it nor
 * gemm_narrow.cuh: tensor cores, a warp computes 32 x 64 elements. */
#include "gemm.cuh"

#include <mma.h>
#include <type_traits>

enum { THREADS = 256, K_STEP = 32, PAD = 8, WARP_M = 32, WARP_N = 64, FRAGMENT = 16 };

/* tile = op(x) of SIDE x K_STEP elements as they lie in memory: [k][i] if TRANS, else [i][k]. */
template <bool TRANS>
__device__ static void load_bf16_tile(bf16 *tile, const bf16 *x, int64_t ld, int64_t from,
                                      int64_t side, int64_t depth, int64_t k, bool whole)
{
  enum { WIDTH = TRANS ? SIDE : K_STEP, LD = WIDTH + PAD, SIZE = pack<bf16>::SIZE };
  for (int at = threadIdx.x * SIZE; at < SIDE * K_STEP; at += THREADS * SIZE) {
    int line = at / WIDTH, in_line = at % WIDTH;
    int64_t row = (TRANS ? depth : from) + line, column = (TRANS ? from : depth) + in_line;
    int64_t rows = TRANS ? k : side, columns = TRANS ? side : k;
    pack<bf16> p;
    bool fits = whole && column + SIZE <= columns;
    load(p, x + row * ld, column, row < rows ? columns : 0, fits && row < rows);
    *(pack<bf16> *)(tile + line * LD + in_line) = p;
  }
}

/* c is bf16, or float for what is to be rounded no further. */
template <bool TRANS_A, bool TRANS_B, class OUT>
__global__ void __launch_bounds__(THREADS)
    gemm_bf16_kernel(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda, const bf16 *b,
                     int64_t ldb, OUT *c, int64_t ldc, bool accumulate, bool whole)
{
  using namespace nvcuda::wmma;
  typedef typename std::conditional<TRANS_A, col_major, row_major>::type order_a;
  typedef typename std::conditional<TRANS_B, col_major, row_major>::type order_b;
  enum { LD_A = (TRANS_A ? SIDE : K_STEP) + PAD, LD_B = (TRANS_B ? K_STEP : SIDE) + PAD };
  enum { ROWS = WARP_M / FRAGMENT, COLUMNS = WARP_N / FRAGMENT };
  __shared__ __align__(32) bf16 left[SIDE * (K_STEP + PAD) + K_STEP * PAD];
  __shared__ __align__(32) bf16 right[SIDE * (K_STEP + PAD) + K_STEP * PAD];
  __shared__ __align__(32) float patch[THREADS / WARP][FRAGMENT][FRAGMENT + 4];
  int64_t first_m = blockIdx.y * (int64_t)SIDE, first_n = blockIdx.x * (int64_t)SIDE;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int at_m = warp / 2 * WARP_M, at_n = warp % 2 * WARP_N;
  fragment<accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float> sum[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++)
      fill_fragment(sum[i][j], 0.0f);
  for (int64_t depth = 0; depth < k; depth += K_STEP) {
    load_bf16_tile<TRANS_A>(left, a, lda, first_m, m, depth, k, whole);
    load_bf16_tile<!TRANS_B>(right, b, ldb, first_n, n, depth, k, whole);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < K_STEP; d += FRAGMENT) {
      fragment<matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, bf16, order_a> x[ROWS];
      fragment<matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, bf16, order_b> y[COLUMNS];
      for (int i = 0; i < ROWS; i++) {
        int row = at_m + i * FRAGMENT;
        load_matrix_sync(x[i], left + (TRANS_A ? d * LD_A + row : row * LD_A + d), LD_A);
      }
      for (int j = 0; j < COLUMNS; j++) {
        int column = at_n + j * FRAGMENT;
        load_matrix_sync(y[j], right + (TRANS_B ? column * LD_B + d : d * LD_B + column), LD_B);
      }
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++)
          mma_sync(sum[i][j], x[i], y[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) {
      store_matrix_sync(&patch[warp][0][0], sum[i][j], FRAGMENT + 4, mem_row_major);
      __syncwarp();
      for (int e = lane; e < FRAGMENT * FRAGMENT; e += WARP) {
        int64_t row = first_m + at_m + i * FRAGMENT + e / FRAGMENT;
        int64_t column = first_n + at_n + j * FRAGMENT + e % FRAGMENT;
        if (row >= m || column >= n)
          continue;
        OUT *to = c + row * ldc + column;
        float value = patch[warp][e / FRAGMENT][e % FRAGMENT];
        *to = real_of<OUT>(value + (accumulate ? to_float(*to) : 0.0f));
      }
      __syncwarp();
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

struct bf16_product {
  template <bool TRANS_A, bool TRANS_B, class OUT>
  static void launch(dim3 grid, int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda,
                     const bf16 *b, int64_t ldb, OUT *c, int64_t ldc, bool accumulate,
                     cudaStream_t s)
  {
    enum { SIZE = pack<bf16>::SIZE };
    bool whole = ((uintptr_t)a | (uintptr_t)b) % 16 == 0 && lda % SIZE == 0 && ldb % SIZE == 0;
    LAUNCH(grid, THREADS, 0, s, gemm_bf16_kernel<TRANS_A, TRANS_B, OUT>)
    (m, n, k, a, lda, b, ldb, c, ldc, accumulate, whole);
  }
};

template <class OUT>
int neapi_cuda_own_bf16(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda, int trans_a,
                        const bf16 *b, int64_t ldb, int trans_b, OUT *c, int64_t ldc,
                        int accumulate, cudaStream_t s)
{
  return own_product<bf16_product>(m, n, k, a, lda, trans_a, b, ldb, trans_b, c, ldc, accumulate,
                                   s);
}
template int neapi_cuda_own_bf16<float>(int64_t, int64_t, int64_t, const bf16 *, int64_t, int,
                                        const bf16 *, int64_t, int, float *, int64_t, int,
                                        cudaStream_t);
template int neapi_cuda_own_bf16<bf16>(int64_t, int64_t, int64_t, const bf16 *, int64_t, int,
                                       const bf16 *, int64_t, int, bf16 *, int64_t, int,
                                       cudaStream_t);

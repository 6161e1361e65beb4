/* SPDX-License-Identifier: Apache-2.0 */
/* Flat products: c (M, N) = a (M, K) op(b), N narrow (see gemm_narrow.cuh). */
#include "gemm_narrow.cuh"

enum { FLAT_ROWS = WARPS * FRAGMENT, FLAT_DEPTH = 64 };

/* What a block holds of a slab of K; WIDTH: N up to a multiple of 16. */
template <int WIDTH> struct alignas(32) flat_stage {
  bf16 a[FLAT_ROWS * (FLAT_DEPTH + PAD)], b[FLAT_DEPTH * (WIDTH + PAD)];
};

template <int WIDTH>
__device__ static inline void fill_flat(flat_stage<WIDTH> *stages, const matrix &a, const matrix &b,
                                        int64_t row, int64_t slab)
{
  flat_stage<WIDTH> &stage = stages[slab % STAGES];
  if (slab * FLAT_DEPTH < a.columns) {
    copy<FLAT_ROWS, FLAT_DEPTH>(stage.a, a, row, slab * FLAT_DEPTH);
    copy<FLAT_DEPTH, WIDTH>(stage.b, b, slab * FLAT_DEPTH, 0);
  }
  copies_close();
}

/* c (M, N) = a (M, K) b (K, N). */
template <int WIDTH, class OUT>
__global__ void __launch_bounds__(THREADS, 4)
    gemm_flat_kernel(matrix a, matrix b, OUT *c, int64_t ldc, bool accumulate)
{
  enum { LD_A = FLAT_DEPTH + PAD, LD_B = WIDTH + PAD };
  extern __shared__ __align__(32) unsigned char memory[];
  flat_stage<WIDTH> *stages = (flat_stage<WIDTH> *)memory;
  int64_t first = blockIdx.x * (int64_t)FLAT_ROWS;
  int at = threadIdx.x / WARP * FRAGMENT, lane = threadIdx.x % WARP;
  float sum[1][WIDTH / EIGHT][4] = {};
  for (int64_t slab = 0; slab < STAGES - 1; slab++)
    fill_flat(stages, a, b, first, slab);
  for (int64_t slab = 0; slab * FLAT_DEPTH < a.columns; slab++) {
    copies_wait_but<STAGES - 2>();
    __syncthreads(); /* this slab is there, and the one before is read */
    fill_flat(stages, a, b, first, slab + STAGES - 1);
    const flat_stage<WIDTH> &stage = stages[slab % STAGES];
#pragma unroll
    for (int d = 0; d < FLAT_DEPTH; d += FRAGMENT) {
      uint32_t x[1][4];
      load_matrices(x[0], stage.a + (at + lane % FRAGMENT) * LD_A + d + lane / FRAGMENT * EIGHT);
      multiply_tiles<1, WIDTH>(sum, x, stage.b + d * LD_B);
    }
  }
#pragma unroll
  for (int e = 0; e < WIDTH / EIGHT * 4; e++) {
    int64_t row = first + at + line_of(e / 2 % 2), column = e / 4 * EIGHT + column_of(e % 2);
    OUT *to = c + row * ldc + column;
    if (row < a.rows && column < b.columns)
      *to = real_of<OUT>(sum[0][e / 4][e % 4] + (accumulate ? to_float(*to) : 0.0f));
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <int WIDTH, class OUT>
static int flat(const matrix &a, const matrix &b, OUT *c, int64_t ldc, bool accumulate,
                cudaStream_t s)
{
  int bytes = STAGES * sizeof(flat_stage<WIDTH>);
  if (allow(gemm_flat_kernel<WIDTH, OUT>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_flat_kernel<WIDTH, OUT>", bytes);
  unsigned blocks = (unsigned)((a.rows + FLAT_ROWS - 1) / FLAT_ROWS);
  LAUNCH(blocks, THREADS, bytes, s, gemm_flat_kernel<WIDTH, OUT>)(a, b, c, ldc, accumulate);
  return launched();
}

template <class OUT>
int neapi_cuda_flat(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                    int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate, void *stream)
{
  if (!m || !n)
    return NEAPI_KERNEL_OK;
  BY_SIZE(n, flat, matrix_of(a, m, k, lda, false), matrix_of(b, k, n, ldb, trans_b), c, ldc,
          accumulate, stream_of(stream))
}
template int neapi_cuda_flat<float>(int64_t, int64_t, int64_t, const void *, int64_t, const void *,
                                    int64_t, int, float *, int64_t, int, void *);
template int neapi_cuda_flat<bf16>(int64_t, int64_t, int64_t, const void *, int64_t, const void *,
                                   int64_t, int, bf16 *, int64_t, int, void *);

/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products of our own, what those of float and of bf16 share. A block computes a tile of c
 * and walks K in one order, from 0 up, so that an element's bits depend on its row of a and its
 * column of b alone. */
#ifndef NEAPI_GEMM_CUH
#define NEAPI_GEMM_CUH

#include "cuda.cuh"

enum { SIDE = 128 }; /* of a tile */

/* PRODUCT::launch<TRANS_A, TRANS_B> enqueues the product of some rows. */
template <class PRODUCT, class T, class OUT>
static int own_product(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, int trans_a,
                       const T *b, int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate,
                       cudaStream_t s)
{
  const int64_t MOST_ROWS = 65535 * (int64_t)SIDE; /* of a grid */
  if (trans_a && trans_b)
    return neapi_refused("a product of two transposed matrices");
  if (!n)
    return NEAPI_KERNEL_OK;
  for (int64_t row = 0; row < m; row += MOST_ROWS) {
    int64_t rows = m - row < MOST_ROWS ? m - row : MOST_ROWS;
    const T *left = trans_a ? a + row : a + row * lda;
    OUT *out = c + row * ldc;
    dim3 grid((unsigned)((n + SIDE - 1) / SIDE), (unsigned)((rows + SIDE - 1) / SIDE));
    if (trans_a)
      PRODUCT::template launch<true, false>(grid, rows, n, k, left, lda, b, ldb, out, ldc,
                                            accumulate, s);
    else if (trans_b)
      PRODUCT::template launch<false, true>(grid, rows, n, k, left, lda, b, ldb, out, ldc,
                                            accumulate, s);
    else
      PRODUCT::template launch<false, false>(grid, rows, n, k, left, lda, b, ldb, out, ldc,
                                             accumulate, s);
  }
  return launched();
}

/* Of bf16, by tensor cores; into bf16 or float. */
template <class OUT>
int neapi_cuda_own_bf16(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda, int trans_a,
                        const bf16 *b, int64_t ldb, int trans_b, OUT *c, int64_t ldc,
                        int accumulate, cudaStream_t s);

#endif

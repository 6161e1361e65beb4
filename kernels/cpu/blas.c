/* SPDX-License-Identifier: Apache-2.0 */
/* Weight gradients, sums over tokens, by the machine's BLAS. */
#include "real.h"

#include <cblas.h>

int NAME(gemm_tn)(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda, const void *b,
                  int64_t ldb, void *c, int64_t ldc, int accumulate, STREAM)
{
  if (k <= 0 || n <= 0)
    return NEAPI_KERNEL_OK;
  for (int64_t i = 0; i < k && t <= 0 && !accumulate; i++)
    memset((real *)c + i * ldc, 0, (size_t)n * sizeof(real));
  if (t <= 0)
    return NEAPI_KERNEL_OK;
  real beta = accumulate ? 1 : 0;
#ifdef NEAP_REAL_f64
  cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, n, t, 1, a, lda, b, ldb, beta, c, ldc);
#else
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, n, t, 1, a, lda, b, ldb, beta, c, ldc);
#endif
  return NEAPI_KERNEL_OK;
}

/* Rows of the product that are computed at a time, so that scratch memory stays small. */
enum { BLOCK = 128 };

int NAME(exact_gemm_tn)(int64_t t, int64_t k, int64_t n, const double *a, const double *quantum_a,
                        const double *b, const double *quantum_b, double *sum, STREAM)
{
  if (t <= 0 || k <= 0 || n <= 0)
    return NEAPI_KERNEL_OK;
  double *product = NAME(scratch)(SCRATCH_EXACT, (k < BLOCK ? k : BLOCK) * n * 8);
  if (!product)
    return NEAPI_KERNEL_MEMORY;
  for (int64_t first = 0; first < k; first += BLOCK) {
    int64_t rows = k - first < BLOCK ? k - first : BLOCK;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, n, t, 1, a + first, k, b, n, 0,
                product, n);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n; j++)
        sum[(first + i) * n + j] += product[i * n + j] * quantum_a[first + i] * quantum_b[j];
  }
  return NEAPI_KERNEL_OK;
}

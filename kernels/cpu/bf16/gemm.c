/* SPDX-License-Identifier: Apache-2.0 */
/* Products of bf16 matrices. */
#include "bf16.h"

/* Both factors in float, dense. */
static int widen_factors(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                         const void *b, int64_t ldb, int trans_b, float **wide_a, float **wide_b)
{
  *wide_a = trans_a ? widen_rows(FIRST, k, m, a, lda) : widen_rows(FIRST, m, k, a, lda);
  *wide_b = trans_b ? widen_rows(SECOND, n, k, b, ldb) : widen_rows(SECOND, k, n, b, ldb);
  return *wide_a && *wide_b ? NEAPI_KERNEL_OK : NEAPI_KERNEL_MEMORY;
}

int BF16(gemm_acc)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                   const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
                   STREAM)
{
  float *wide_a, *wide_b;
  int status = widen_factors(m, n, k, a, lda, trans_a, b, ldb, trans_b, &wide_a, &wide_b);
  return status ? status
                : FLOAT(gemm)(m, n, k, wide_a, trans_a ? m : k, trans_a, wide_b, trans_b ? k : n,
                              trans_b, c, ldc, accumulate, NULL);
}

int BF16(gemm)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
               const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
               STREAM)
{
  float *out = accumulate ? widen_rows(THIRD, m, n, c, ldc) : neapi_bf16_scratch(THIRD, m * n);
  int status =
      out ? BF16(gemm_acc)(m, n, k, a, lda, trans_a, b, ldb, trans_b, out, n, accumulate, NULL)
          : NEAPI_KERNEL_MEMORY;
  if (!status)
    narrow_rows(m, n, out, c, ldc);
  return status;
}

int BF16(gemm_tn)(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda, const void *b,
                  int64_t ldb, void *c, int64_t ldc, int accumulate, STREAM)
{
  float *wide_a, *wide_b;
  int status = widen_factors(k, n, t, a, lda, 1, b, ldb, 0, &wide_a, &wide_b);
  return status ? status : FLOAT(gemm_tn)(t, k, n, wide_a, k, wide_b, n, c, ldc, accumulate, NULL);
}

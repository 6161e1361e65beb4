/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's BLAS: kept to one thread, and as a yardstick for the engine's own products. */
#include "tensor/tensor.h"

#include <cblas.h>

/* Ranks are threads already, and sums over tokens must not be cut by how many are idle. */
__attribute__((constructor)) static void use_one_thread(void)
{
  openblas_set_num_threads(1);
}

int neap_blas_product(const neap_tensor *a, int trans_a, const neap_tensor *b, int trans_b,
                      neap_tensor *c)
{
  int status = neapi_tensor_acc("blas product", "c", c);
  if (status)
    return status;
  int64_t m = neap_tensor_dim(c, 0), n = neap_tensor_dim(c, 1);
  int64_t k = a ? neap_tensor_dim(a, !trans_a) : 0;
  status = neapi_tensor_matrix("blas product", "a", a, c->dtype, trans_a ? k : m, trans_a ? m : k);
  if (!status)
    status =
        neapi_tensor_matrix("blas product", "b", b, c->dtype, trans_b ? n : k, trans_b ? k : n);
  if (!status)
    status = neapi_tensor_matrix("blas product", "c", c, c->dtype, m, n);
  if (status || !m || !n)
    return status;
  CBLAS_TRANSPOSE ta = trans_a ? CblasTrans : CblasNoTrans;
  CBLAS_TRANSPOSE tb = trans_b ? CblasTrans : CblasNoTrans;
  int64_t lda = trans_a ? m : k, ldb = trans_b ? k : n;
  if (c->dtype == NEAP_F64)
    cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1, (double *)a->data, lda > 0 ? lda : 1,
                (double *)b->data, ldb > 0 ? ldb : 1, 0, (double *)c->data, n);
  else
    cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, (float *)a->data, lda > 0 ? lda : 1,
                (float *)b->data, ldb > 0 ? ldb : 1, 0, (float *)c->data, n);
  return NEAP_OK;
}
